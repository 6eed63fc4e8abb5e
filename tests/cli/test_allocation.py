"""Inside the allocations of Slurm, PBS, LSF and Flux: who starts the ranks, and how."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distgrad import config
from distgrad.cli import launcher, main, starter
from distgrad.cli.allocation import Allocation, allocation
from distgrad.cli.launcher import Job, command_line
from distgrad.cli.registry import CommandError
from distgrad.cli.starter import Starter, Vendor, choose

CHILD = "-m distgrad.cli.child train.py"
LIBRARIES = {"Open MPI": "Open MPI v5.0.8, package: x", "MPICH": "MPICH Version: 4.3.0",
             "Cray": "MPI VERSION: CRAY MPICH version 8.1.28 (ANL base 3.4a2)", "Intel": "Intel(R) MPI Library 2021.13"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_CPUS_PER_NODE": "4(x2)", "SLURM_NTASKS": "8"}


@pytest.fixture
def nodes(tmp_path: Path) -> str:
    """A scheduler's list of two nodes with four slots each."""
    path = tmp_path / "nodes"
    path.write_text("one\n" * 4 + "two\n" * 4)
    return str(path)


def program(folder: Path, name: str, says: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    path.chmod(0o755)


@pytest.fixture
def bin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs that is the whole PATH, without an mpiexec beside Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(launcher, "allowed_cores", lambda: 4)
    return folder


def use(monkeypatch: pytest.MonkeyPatch, mpi: str) -> None:
    monkeypatch.setattr(starter, "library", lambda environment: LIBRARIES[mpi])


def line(ranks: int, environment: dict[str, str], bin: Path, **options: str) -> str:
    environment = {**environment, "PATH": f"{bin}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    found = command_line(Job(ranks, ("train.py",)), choose(environment, **options), environment)
    return " ".join(found.argv).replace(sys.executable + " ", "").replace(str(bin) + "/", "")


@pytest.mark.parametrize(("mpi", "pmi"), [("Open MPI", "pmix"), ("MPICH", "pmi2"), ("Cray", "cray_shasta")])
def test_slurm_starts_ranks_by_the_plugin_of_their_mpi(mpi: str, pmi: str, bin: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    program(bin, "srun", "MPI plugin types are...\n\tnone\n\tpmix\n\tpmi2\n\tcray_shasta")
    use(monkeypatch, mpi)
    assert line(8, SLURM, bin) == (f"srun --ntasks=8 --nodes=2 --ntasks-per-node=4 --mpi={pmi} --kill-on-bad-exit=1 "
                                   f"--unbuffered --cpu-bind=cores --cpus-per-task=1 {CHILD}")
    assert "--cpu-bind=none --overcommit" in line(16, SLURM, bin)
    assert "--ntasks=1 --nodes=1" in line(1, SLURM, bin)


@pytest.mark.parametrize(("mpi", "says"), [("Open MPI", "none\npmi2"), ("MPICH", "none\npmix"),
                                           ("Intel", "none\npmi2\npmix")])
def test_without_a_fitting_plugin_mpiexec_asks_slurm(mpi: str, says: str, bin: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    program(bin, "srun", says)
    program(bin, "mpiexec", "mpiexec (Open MPI) 5.0.8")
    use(monkeypatch, mpi)
    assert line(8, SLURM, bin).startswith("mpiexec -n 8 ") and "-x PYTHONUNBUFFERED" in line(8, SLURM, bin)
    with pytest.raises(CommandError, match="srun --mpi=list offers neither"):
        line(8, SLURM, bin, wanted="srun")


def test_the_user_may_choose(bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bin, "srun", "pmix")
    program(bin, "mpiexec", "HYDRA build details")
    use(monkeypatch, "Open MPI")
    assert line(8, SLURM, bin, wanted="mpiexec").startswith("mpiexec -n 8 -bind-to core")
    with pytest.raises(CommandError, match="--launcher flux works inside an allocation"):
        line(8, SLURM, bin, wanted="flux")
    hosts = choose({**SLURM, "PATH": str(bin)}, hosts=True)
    assert hosts.vendor is Vendor.HYDRA and hosts.allocation is None, "the user's hosts, not the scheduler's"


def test_a_step_is_no_place_for_another(bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bin, "srun", "pmix")
    program(bin, "mpiexec", "HYDRA build details")
    use(monkeypatch, "Open MPI")
    step = {**SLURM, "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert allocation(step) is None and line(8, step, bin).startswith("mpiexec")
    shell = {**step, "SLURM_STEP_ID": "4294967290"}
    assert line(8, shell, bin).startswith("srun"), "the shell that salloc opens on the first node"
    with pytest.raises(CommandError, match="one of 8 processes that Slurm started"):
        line(8, {**step, "SLURM_STEP_NUM_TASKS": "8"}, bin)


def test_pbs(bin: Path, nodes: str) -> None:
    pbs = {"PBS_JOBID": "12.server", "PBS_NODEFILE": nodes}
    program(bin, "mpiexec", "PALS 1.2.12")
    assert line(8, pbs, bin) == f"mpiexec -n 8 --ppn 4 --line-buffer --depth 1 --cpu-bind depth {CHILD}"
    program(bin, "mpiexec", "mpiexec (Open MPI) 5.0.8")
    assert f"-n 8 --map-by :OVERSUBSCRIBE --bind-to core --hostfile {nodes} -x" in line(8, pbs, bin)
    program(bin, "mpiexec", "HYDRA build details")
    assert line(8, pbs, bin) == f"mpiexec -n 8 -bind-to core {CHILD}", "Hydra asks PBS itself"


def test_pals_is_known_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pals" / "1.3").mkdir(parents=True)
    program(tmp_path / "pals" / "1.3", "mpiexec", "1.3.2")
    assert starter.identify(str(tmp_path / "pals" / "1.3" / "mpiexec")) is Vendor.PALS


def test_lsf(bin: Path, nodes: str, tmp_path: Path) -> None:
    lsf = {"LSB_JOBID": "3", "LSB_DJOB_HOSTFILE": nodes}
    program(bin, "mpiexec", "mpiexec (Open MPI) 5.0.8")
    assert f"--hostfile {nodes}" in line(8, lsf, bin)
    Path(nodes).write_text("batch1\n" + "one\n" * 4 + "two\n" * 4)
    program(bin, "jsrun", "jsrun")
    assert line(8, lsf, bin) == ("jsrun --nrs 2 --rs_per_host 1 --tasks_per_rs 4 --cpu_per_rs ALL_CPUS --gpu_per_rs "
                                 f"ALL_GPUS --exit_on_error 1 --bind packed:1 {CHILD}")
    assert "--bind none" in line(16, lsf, bin)
    with pytest.raises(CommandError, match="7 ranks do not divide among 2 nodes"):
        line(7, lsf, bin)


def test_flux(bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flux = {"FLUX_URI": "local:///run/flux/local"}
    program(bin, "flux", "2")
    use(monkeypatch, "MPICH")
    common = "flux run -n 8 --unbuffered -o exit-on-error -o cpu-affinity=per-task -o gpu-affinity=off -c 1"
    assert line(8, flux, bin) == f"{common} {CHILD}"
    use(monkeypatch, "Open MPI")
    assert line(8, flux, bin) == f"{common} -o pmi=pmix {CHILD}"
    assert "-o cpu-affinity=off" in line(16, flux, bin)
    assert allocation({**flux, "FLUX_TASK_RANK": "0"}) is None


def test_a_host_file_that_is_gone_is_named(bin: Path) -> None:
    with pytest.raises(CommandError, match=r"the host file cannot be read: .*nowhere"):
        line(2, {"PBS_JOBID": "1", "PBS_NODEFILE": "/nowhere"}, bin)


def test_threads_per_rank_are_slurms(bin: Path) -> None:
    inside = Starter("srun", Vendor.SRUN, "pmi2", Allocation("Slurm", "7", nodes=2, cores=8))
    found = command_line(Job(4, ("train.py",)), inside, {"SLURM_CPUS_PER_TASK": "4"})
    assert found.variables["OMP_NUM_THREADS"] == "4" and "--cpus-per-task=4" in found.argv


def test_outside_of_an_allocation_nothing_changes(bin: Path) -> None:
    program(bin, "srun", "pmix")
    program(bin, "mpiexec", "HYDRA build details")
    assert line(2, {}, bin) == f"mpiexec -n 2 -bind-to core {CHILD}"


def test_one_of_several_processes_does_not_start_several_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    for name, value in (("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert main(["run", "-n", "4", str(script)]) == 2
    assert "one of 4 processes that Open MPI started" in capsys.readouterr().err


# What the ranks of each launcher find in their environment: (name, rank, size, local rank).
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "8",
        "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(("environment", "expected"), [
    (STEP, ("Slurm", 3, 4, 1)),
    ({**STEP, "PMI_RANK": "3", "PMI_SIZE": "4"}, ("Slurm", 3, 4, 1)),
    ({**STEP, "PMIX_RANK": "3"}, ("Slurm", 3, 4, 1)),
    ({**STEP, "PMI_RANK": "2", "PMI_SIZE": "6", "MPI_LOCALRANKID": "0"}, ("Hydra", 2, 6, 0)),
    ({**STEP, "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "2"},
     ("Open MPI", 5, 6, 2)),
    ({"FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "2", "FLUX_TASK_LOCAL_ID": "1", "PMI_RANK": "1", "PMI_SIZE": "2"},
     ("Flux", 1, 2, 1)),
    ({"PALS_RANKID": "3", "PALS_LOCAL_RANKID": "1", "PMI_RANK": "3", "PMI_SIZE": "4"}, ("PALS", 3, 4, 1)),
    ({"JSM_NAMESPACE_RANK": "3", "JSM_NAMESPACE_SIZE": "4", "JSM_NAMESPACE_LOCAL_RANK": "1", "PMIX_RANK": "3"},
     ("jsrun", 3, 4, 1)),
    ({"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_LOCAL_RANK": "1"}, ("PMI", 1, 2, 1)),
    ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
    ({"DISTGRAD_RANKS": "4"}, ("distgrad run", None, 4, None)),
    ({"DISTGRAD_RANKS": "4", "PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}, ("Hydra", 1, 4, 1)),
])
def test_what_a_launcher_says(environment: dict[str, str],
                              expected: tuple[str, int | None, int, int | None] | None) -> None:
    assert config.launcher(environment) == (config.Launcher(*expected) if expected else None)


def test_tasks_that_nobody_started_yet() -> None:
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
    assert config.waiting_tasks(batch) == 8
    assert config.waiting_tasks(STEP) == config.waiting_tasks({}) == 0
