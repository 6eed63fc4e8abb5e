"""A signal to one rank: all save the same step, the job ends with 0, and going on leads to the same bits."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from distgrad import checkpoint

ROOT = Path(__file__).resolve().parents[2]
LM = ROOT / "examples" / "char_lm.py"
RANKS = 3
STEPS = 400
LIMIT = 10.0  # seconds from the signal to the end of the job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.skipif(
    not (Path(sys.executable).with_name("mpiexec").exists() or shutil.which("mpiexec")), reason="needs mpiexec")]


def start(folder: Path, name: str, *more: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "distgrad", "run", "-n", str(RANKS), "--timeout", "100", str(LM), "--text",
             "text.txt", "--hidden", "24", "--batch", "12", "--seq-len", "16", "--steps", str(STEPS), "--every", "1",
             "--losses", f"{name}.losses", "--save", f"{name}.weights", *map(str, more)]
    return subprocess.Popen(words, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(job: subprocess.Popen[str]) -> str:
    try:
        out, err = job.communicate(timeout=110)
    except subprocess.TimeoutExpired:
        job.terminate()
        out, err = job.communicate(timeout=20)
        pytest.fail(f"did not end\n{out}\n{err}")
    assert job.returncode == 0, out + err
    return out


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *descendants(child)]
    return found


def process_of(job: subprocess.Popen[str], rank: int) -> int:
    """The process that is this rank of the job."""
    for pid in descendants(job.pid):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if any(f"{name}={rank}".encode() in variables for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK")) \
                and b"python" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"rank {rank} is not there")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and what comes of a training that nobody stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "text.txt").write_text("".join(f"{i % 97} bottles of beer, größer als {i % 13};\n" for i in range(600)))
    finish(start(folder, "whole"))
    return folder


@pytest.mark.parametrize(("number", "rank"), [(signal.SIGTERM, 1), (signal.SIGUSR2, RANKS - 1)])
def test_a_signal_to_one_rank(number: signal.Signals, rank: int, undisturbed: Path) -> None:
    name = number.name
    options = "--checkpoint", f"{name}.checkpoints", "--save-every", 150
    job = start(undisturbed, name, *options)
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith("step 20/"):
            break
    os.kill(process_of(job, rank), number)
    begin = time.monotonic()
    rest = finish(job)
    assert time.monotonic() - begin < LIMIT
    assert "validation" not in rest, "it was stopped before its end"
    last = max(int(step) for step in re.findall(r"^step (\d+)/", rest, re.M))
    found = checkpoint.load(undisturbed / f"{name}.checkpoints", {})
    assert 20 < found.step == last < STEPS and len(found.extra["losses"]) == last

    assert "validation loss" in finish(start(undisturbed, name, *options))
    weights, expected = (safetensors.numpy.load_file(undisturbed / f"{which}.weights") for which in (name, "whole"))
    assert weights.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(weights[key], expected[key], err_msg=key)
    lines = [[json.loads(line) for line in (undisturbed / f"{which}.losses").read_text().splitlines()]
             for which in (name, "whole")]
    assert lines[0] == lines[1] and len(lines[0]) == STEPS
