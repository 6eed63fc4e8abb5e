"""The command line that starts N ranks with a given starter.

It owns the differences between vendors and schedulers, as pure functions from a `Job` and a
`Starter` to a `CommandLine`. It starts nothing; `supervise` runs what comes out of here.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from distgrad.cli.allocation import Allocation, hosts_in
from distgrad.cli.cores import allowed_cores
from distgrad.cli.registry import CommandError
from distgrad.cli.starter import Starter, Vendor

__all__ = ["CommandLine", "Job", "command_line"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                    "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """What the user asked for. `program` is the script or `-m module`, and its arguments.

    runner: what Python runs the program with; () is Python itself.
    bind: 'auto' binds each rank to its own cores if there are enough, 'core' always, 'none' never.
    threads: BLAS threads per rank; None shares the node's cores out.
    python: who runs it; empty is this interpreter.
    """

    ranks: int
    program: tuple[str, ...]
    host: str | None = None
    hostfile: str | None = None
    bind: str = "auto"
    threads: int | None = None
    runner: tuple[str, ...] = ("-m", "distgrad.cli.child")
    python: str = ""


@dataclass(frozen=True)
class CommandLine:
    """A command and the variables it needs; `str()` can be pasted into a shell."""

    argv: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.variables.items()),
                         shlex.join(self.argv)])


def command_line(job: Job, starter: Starter, environment: Mapping[str, str], terminal: bool = False) -> CommandLine:
    """The starter's command line for a job; `terminal`: a person reads what the ranks write.

    More ranks than cores are always allowed. Ranks are bound only where every rank gets cores of
    its own: with fewer cores than ranks, bound ranks would queue up on one core.
    """
    nodes = _nodes(job, starter.allocation)
    local = -(-job.ranks // nodes)
    cores = allowed_cores() if starter.allocation is None else starter.allocation.cores or allowed_cores()
    threads = _threads(job, cores // local, environment)
    bound = job.bind == "core" or (job.bind == "auto" and local * threads <= cores)
    variables = {name: str(threads) for name in THREAD_VARIABLES if job.threads or name not in environment}
    variables |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if terminal:  # the ranks write into the launcher's pipe and cannot tell where it ends
        variables["DISTGRAD_TERMINAL"] = "1"
    layout = _Layout(job, starter, nodes, local, cores, threads if bound else 0)
    if starter.vendor is Vendor.OTHER and (job.host or job.hostfile):
        raise CommandError(f"{starter.program} is of an unknown vendor, so --host and --hostfile cannot be passed on; "
                           "call it yourself, with `python -m distgrad.cli.child script.py` as the program")
    if starter.vendor is Vendor.OPEN_MPI and os.geteuid() == 0:
        variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if starter.vendor is Vendor.INTEL:
        variables |= {"I_MPI_PIN": "1", "I_MPI_PIN_DOMAIN": str(threads)} if bound else {"I_MPI_PIN": "0"}
    if starter.vendor is Vendor.OTHER:  # the ranks compare it with the world that they find
        variables["DISTGRAD_RANKS"] = str(job.ranks)
    options = _OPTIONS[starter.vendor](layout, variables)
    child = (job.python or sys.executable, *job.runner, *job.program)
    return CommandLine((*starter.words, *options, *child), variables)


@dataclass(frozen=True)
class _Layout:
    """How a job's ranks lie on its nodes: `local` ranks on each, `bound` cores for each rank (0: unbound)."""

    job: Job
    starter: Starter
    nodes: int
    local: int
    cores: int
    bound: int

    @property
    def count(self) -> list[str]:
        return ["-n", str(self.job.ranks)]

    @property
    def listed(self) -> str | None:
        """The file of hosts: the user's, or the scheduler's for launchers that are not told otherwise."""
        allocation = self.starter.allocation
        return self.job.hostfile or (allocation.hostfile if allocation and not self.job.host else None)


def _open_mpi(layout: _Layout, variables: Mapping[str, str]) -> list[str]:
    job, bound, listed = layout.job, layout.bound, layout.listed
    options = [*layout.count, "--map-by", f"slot:PE={bound}:OVERSUBSCRIBE" if bound > 1 else ":OVERSUBSCRIBE",
               "--bind-to", "core" if bound else "none"]
    options += ["--host", job.host] if job.host else []
    options += ["--hostfile", listed] if listed else []
    if job.host or listed or layout.nodes > 1:
        # Hydra forwards the whole environment to other hosts, Open MPI only what is named.
        options += [word for name in variables for word in ("-x", name)]
    return options


def _hydra(layout: _Layout, variables: Mapping[str, str]) -> list[str]:
    return [*_intel(layout, variables), "-bind-to", _bind(layout.bound)]


def _intel(layout: _Layout, variables: Mapping[str, str]) -> list[str]:
    # Hydra asks Slurm, PBS and LSF for the hosts itself.
    job = layout.job
    return layout.count + (["-hosts", job.host] if job.host else []) + (["-f", job.hostfile] if job.hostfile else [])


def _pals(layout: _Layout, variables: Mapping[str, str]) -> list[str]:
    job, bound = layout.job, layout.bound
    options = [*layout.count, "--ppn", str(layout.local), "--line-buffer"]
    options += ["--depth", str(bound), "--cpu-bind", "depth"] if bound else ["--cpu-bind", "none"]
    options += ["--hosts", job.host] if job.host else []
    options += ["--hostfile", job.hostfile] if job.hostfile else []
    return options


def _srun(layout: _Layout, variables: Mapping[str, str]) -> list[str]:
    job, bound = layout.job, layout.bound
    options = [f"--ntasks={job.ranks}", f"--nodes={min(layout.nodes, job.ranks)}",
               f"--ntasks-per-node={layout.local}", f"--mpi={layout.starter.pmi}", "--kill-on-bad-exit=1",
               "--unbuffered", f"--cpu-bind={'cores' if bound else 'none'}"]
    if bound:
        options.append(f"--cpus-per-task={bound}")
    elif layout.local > layout.cores:
        options.append("--overcommit")
    return options


def _flux(layout: _Layout, variables: Mapping[str, str]) -> list[str]:
    bound, pmi = layout.bound, layout.starter.pmi
    options = [*layout.count, "--unbuffered", "-o", "exit-on-error",
               "-o", f"cpu-affinity={'per-task' if bound else 'off'}", "-o", "gpu-affinity=off"]
    options += ["-c", str(bound)] if bound else []
    return options + (["-o", f"pmi={pmi}"] if pmi else [])


def _jsrun(layout: _Layout, variables: Mapping[str, str]) -> list[str]:
    # One resource set a node, so that each rank sees all GPUs of its node and picks its own.
    if layout.job.ranks % layout.nodes:
        raise CommandError(f"jsrun gives every node as many ranks as the others: {layout.job.ranks} ranks do not "
                           f"divide among {layout.nodes} nodes")
    return ["--nrs", str(layout.nodes), "--rs_per_host", "1", "--tasks_per_rs", str(layout.local),
            "--cpu_per_rs", "ALL_CPUS", "--gpu_per_rs", "ALL_GPUS", "--exit_on_error", "1",
            "--bind", f"packed:{layout.bound}" if layout.bound else "none"]


def _other(layout: _Layout, variables: Mapping[str, str]) -> list[str]:
    return layout.count


_OPTIONS = {Vendor.OPEN_MPI: _open_mpi, Vendor.HYDRA: _hydra, Vendor.INTEL: _intel, Vendor.PALS: _pals,
            Vendor.OTHER: _other, Vendor.SRUN: _srun, Vendor.FLUX: _flux, Vendor.JSRUN: _jsrun}


def _bind(cores: int) -> str:
    return "none" if not cores else "core" if cores == 1 else f"core:{cores}"


def _threads(job: Job, share: int, environment: Mapping[str, str]) -> int:
    if job.threads:
        return job.threads
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        wanted = environment.get(name, "").split(",")[0]
        if wanted.isdigit() and int(wanted):
            return int(wanted)
    return max(1, share)


def _nodes(job: Job, allocation: Allocation | None) -> int:
    """Over how many nodes the ranks are spread, as far as can be told before they start."""
    if job.host:
        return len({entry.split(":")[0] for entry in job.host.split(",") if entry})
    if job.hostfile:
        return max(1, len(hosts_in(job.hostfile)))
    return min(allocation.nodes, job.ranks) if allocation else 1
