"""Whenever a process is killed, the newest complete checkpoint is there and loads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [200, pytest.param(5000, marks=[pytest.mark.long, pytest.mark.timeout(1500)])])
def test_random_kill_points_lose_nothing(kills: int, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.checkpoint.killed", str(tmp_path / "c"), str(kills), "7"],
                          cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=max(100, kills * 0.25))
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(rf"{kills} kills, (\d+) saves, (\d+) times something new\n", done.stdout)
    assert found and int(found[2]) >= kills // 4, done.stdout  # most came far enough to save something
