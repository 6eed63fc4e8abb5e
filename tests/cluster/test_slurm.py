"""Jobs on a real Slurm: two nodes, both ways of starting ranks, preemption, requeue, and the same bits in the end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import ROOT, Slurm, environment, python_with

TRAIN = Path(__file__).with_name("train.py")
STEPS = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# (MPI, launcher). srun --mpi=pmix across this laboratory's nodes fails inside Slurm: both daemons of one machine
# want the same socket. On one node it works, see below.
WAYS = [("mpich", "srun"), ("mpich", "mpiexec"), ("openmpi", "mpiexec")]
TWO_BY_TWO = ["--nodes", "2", "--ranks-per-node", "2"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of an undisturbed run, on simulated ranks."""
    folder = tmp_path_factory.mktemp("reference")
    done = subprocess.run([sys.executable, "-m", "distgrad", "run", "--simulate", "-n", "4", TRAIN, folder, "--steps",
                           str(STEPS)], env={**environment(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return (folder / "weights.safetensors").read_bytes()


def steps(folder: Path) -> list[str]:
    path = folder / "steps.txt"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(("mpi", "launcher"), WAYS)
def test_two_nodes_with_two_ranks_each(mpi: str, launcher: str, slurm: Slurm, folder: Path, reference: bytes) -> None:
    job = slurm.submit(python_with(mpi), folder, *TWO_BY_TWO, "--launcher", launcher,
                       program=(TRAIN, folder, "--steps", str(STEPS)))
    found = slurm.until(job, "COMPLETED")
    assert found["NumNodes"] == "2" and found["Restarts"] == "0"
    assert steps(folder) == ["start at 0 with 4 ranks", f"done after {STEPS}"], slurm.log(found)
    assert (folder / "weights.safetensors").read_bytes() == reference


def test_srun_starts_open_mpi_by_pmix(slurm: Slurm, folder: Path) -> None:
    job = slurm.submit(python_with("openmpi"), folder, "--nodes", "1", "--ranks-per-node", "2", "--launcher", "srun",
                       program=(TRAIN, folder, "--steps", "3"))
    found = slurm.until(job, "COMPLETED")
    assert steps(folder) == ["start at 0 with 2 ranks", "done after 3"], slurm.log(found)


@pytest.mark.parametrize(("mpi", "launcher", "warning"), [
    ("mpich", "srun", "60"),  # SIGUSR2 to the script
    ("mpich", "srun", "0"),  # SIGTERM to the ranks, as where the cluster sends no signal of the user's
    ("openmpi", "mpiexec", "60"),
    ("mpich", "mpiexec", "60"),
])
def test_preempted_requeued_and_the_same_bits(mpi: str, launcher: str, warning: str, slurm: Slurm, folder: Path,
                                              reference: bytes) -> None:
    job = slurm.submit(python_with(mpi), folder, *TWO_BY_TWO, "--launcher", launcher, "--warning", warning,
                       "--queue", "debug", "--resume", "auto",
                       program=(TRAIN, folder, "--steps", str(STEPS), "--pause", "0.2"))
    found = slurm.until(job, "RUNNING")
    deadline = time.monotonic() + 60
    while not steps(folder):
        assert time.monotonic() < deadline, slurm.log(found)
        time.sleep(0.1)
    urgent = int(slurm.call("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--ntasks-per-node=2",
                            "--output=/dev/null", "--wrap", "sleep 1"))
    found = slurm.until(job, "PENDING")
    stopped = steps(folder)[-1]
    assert stopped.startswith("stopped after ") and 0 < int(stopped.split()[-1]) < STEPS, slurm.log(found)
    slurm.until(urgent, "COMPLETED")
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # a requeued job waits two minutes by itself
    found = slurm.until(job, "COMPLETED")
    assert found["Restarts"] == "1"
    at = int(stopped.split()[-1])
    assert steps(folder) == ["start at 0 with 4 ranks", f"stopped after {at}", f"start at {at} with 4 ranks",
                             f"done after {STEPS}"]
    assert (folder / "weights.safetensors").read_bytes() == reference


def test_tasks_that_form_no_world_are_refused(slurm: Slurm, folder: Path) -> None:
    job = slurm.submit(python_with("mpich"), folder, *TWO_BY_TWO, "--launcher", "srun", "--mpi", "none",
                       program=(TRAIN, folder, "--steps", "3"))
    found = slurm.until(job, "FAILED")
    assert "Slurm started 4 tasks, but MPI" in slurm.log(found) and "srun --mpi=pmi2 for MPICH" in slurm.log(found)
    assert not steps(folder)


def test_distgrad_run_in_the_script_finds_srun(slurm: Slurm, folder: Path) -> None:
    python = python_with("mpich")
    job = int(slurm.call("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=2", f"--output={folder}/out", "--wrap",
                         f"{python} -m distgrad run -n 4 {TRAIN} {folder} --steps 3", folder=folder))
    found = slurm.until(job, "COMPLETED")
    assert "srun --ntasks=4 --nodes=2 --ntasks-per-node=2 --mpi=pmi2" in slurm.log(found)
    assert steps(folder)[0] == "start at 0 with 4 ranks"


def test_max_restarts_inside_an_allocation(slurm: Slurm, folder: Path) -> None:
    """The script fails once it has got somewhere; the same allocation starts it again."""
    python = python_with("mpich")
    (folder / "flaky.py").write_text("""
import sys
from pathlib import Path
from distgrad.distributed import world
mark = Path("mark")
first = not mark.exists()
print(f"run {world().rank}\\n", end="", flush=True)
world().barrier()
mark.touch()
sys.exit(3 if first else 0)
""")
    job = int(slurm.call("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", f"--output={folder}/out", "--wrap",
                         f"{python} -m distgrad run -n 2 --max-restarts 2 flaky.py", folder=folder))
    found = slurm.until(job, "COMPLETED")
    assert "distgrad run: exit code 3; attempt 2 of 3 starts in 1 s" in slurm.log(found)
    assert slurm.log(found).count("run 1") == 2
