"""A rank that is killed in mid-training: `--max-restarts` and checkpoints bring the job to the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, environment, python_with

TRAIN = Path(__file__).with_name("train.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def run(python: Path | str, *words: str | Path) -> str:
    """`distgrad run`; what it said."""
    done = subprocess.run([python, "-m", "distgrad", "run", *words], env={**environment(), "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=150, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("mpi", ["openmpi", "mpich"])
def test_a_killed_rank_costs_no_bit(mpi: str, tmp_path: Path) -> None:
    python = python_with(mpi)
    calm, hit = tmp_path / "calm", tmp_path / "hit"
    calm.mkdir()
    hit.mkdir()
    run(sys.executable, "--simulate", "-n", "3", TRAIN, calm, "--steps", "40")
    said = run(python, "-n", "3", "--max-restarts", "1", TRAIN, hit, "--steps", "40", "--resume", "auto",
               "--save-every", "5", "--crash-at", "23")
    assert "attempt 2 of 2" in said
    begins = [int(line.split()[2]) for line in (hit / "steps.txt").read_text().splitlines() if line.startswith("start")]
    assert begins[0] == 0 and begins[1] in (15, 20), "from the newest checkpoint that was complete"
    assert (hit / "weights.safetensors").read_bytes() == (calm / "weights.safetensors").read_bytes()
