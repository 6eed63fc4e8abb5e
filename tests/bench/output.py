"""What the benchmarks print, read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distgrad.cli.registry import CommandError
from distgrad.cli.starter import find_mpiexec

__all__ = ["json_lines", "on_real_ranks"]

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 100.0  # seconds for one job


def json_lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def on_real_ranks(*words: str) -> list[dict[str, Any]]:
    """The JSON lines of `distgrad bench WORDS`, which starts its ranks by itself. Skips without an mpiexec."""
    try:
        find_mpiexec(os.environ)
    except CommandError:
        pytest.skip("needs an mpiexec")
    with subprocess.Popen([sys.executable, "-m", "distgrad", "bench", *words], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as job:
        try:
            out, err = job.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            job.terminate()  # it ends its ranks
            pytest.fail(f"not done after {LIMIT} s: {job.communicate()}")
    assert job.returncode == 0, out + err
    return json_lines(out)
