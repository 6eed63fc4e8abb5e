"""`launch/device`: what it would run, and what it makes of programs that end well, fail, or are not there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "device"

# A python in which everything is installed but torch, whose tests pass but one, and whose benchmarks cannot run.
PYTHON = r"""#!/bin/bash
case "$*" in
    -\ *) cat > /dev/null ;;
    -c*) exit 1 ;;
    -m\ pytest*test_attention.py)
        echo "FAILED tests/ops/test_attention.py::test_one - wrong"
        echo "1 failed, 2 passed"
        exit 1 ;;
    -m\ pytest*test_conv.py) kill -9 $$ ;;
    -m\ pytest*) echo "3 passed, 1 skipped" ;;
    *doctor) echo "all is well" ;;
    *bench\ step*)
        for part in total forward; do
            echo "step: mlp, 1 rank: $part"
            echo "  distgrad       0.829 ms  ($part)    1.00 x"
            echo '{"benchmark": "step: mlp, 1 rank: total"}'
        done ;;
    *) echo "no device"; exit 2 ;;
esac
"""


def device(*words: str, path: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    return subprocess.run([str(SCRIPT), *words], env={**environment, "PATH": path or os.environ["PATH"], **more},
                          capture_output=True, text=True, timeout=100)


def test_a_dry_run_tells_all_parts_and_makes_nothing(tmp_path: Path) -> None:
    done = device("--dry-run", str(tmp_path / "results"), PYTHON="mine")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr and not (tmp_path / "results").exists()
    assert all(line.startswith("timeout --kill-after=10 ") for line in lines)
    order = ["nvidia-smi", "mine -m distgrad doctor", "tests/gpu/test_kernels.py", "tests/ops/test_attention.py",
             "tests/mpi/test_data_parallel_mpi.py", "bench ceilings", "--size large --rounds 10 --workload gpt",
             "--workload mlp_wide", "--workload lstm", "DISTGRAD_TF32=1", "bench op", "bench update", "bench loader"]
    places = [next(number for number, line in enumerate(lines) if word in line) for word in order]
    assert places == sorted(places)
    assert all("--device cuda" in line for line in lines if "bench" in line or "pytest" in line)
    assert all("lines.jsonl" in line for line in lines if "bench" in line)
    assert sum("--peer torch" in line for line in lines) > 5
    assert "--peer" not in device("--dry-run", "--peer", "none", str(tmp_path / "results")).stdout


def test_one_part_alone(tmp_path: Path) -> None:
    lines = device("--dry-run", "--only", "doctor", "--only", "ceilings", "results").stdout.splitlines()
    assert [line.split(" python ")[-1].split(" --")[0] for line in lines[1:]] == ["-m distgrad doctor",
                                                                               "-m distgrad bench ceilings"]


def test_each_part_is_noted(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    parts = ["--only", "doctor", "--only", "suite", "--only", "small"]
    done = device(*parts, str(tmp_path / "results"), PYTHON=str(python))
    summary = (tmp_path / "results" / "summary.txt").read_text()
    log = (tmp_path / "results" / "log.txt").read_text()
    assert done.returncode == 0 and done.stdout == summary, done.stderr
    assert "doctor: ended well" in summary and "all is well" in log
    assert "  FAILED tests/ops/test_attention.py::test_one - wrong\n" in summary and "2 passed" in log
    assert "  tests/ops/test_conv.py: exit code 137\n" in summary
    passed, skipped = (int(re.findall(rf"(\d+) {word}", summary)[0]) for word in ("passed", "skipped"))
    assert passed == 2 + 3 * skipped and skipped > 20 and " 1 failed, 0 errors, " in summary
    assert "small operations: FAILED (exit code 2)" in summary and "no device" in log
    assert "  step: mlp, 1 rank: total\n    distgrad       0.829 ms  (total)    1.00 x\n" in summary
    assert "forward" not in summary and "forward" in log


def test_without_a_driver_it_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("dirname", "nproc", "sed", "head", "bash", "env"):
        (path / name).symlink_to(next(folder for folder in ("/bin", "/usr/bin") if Path(folder, name).exists())
                                 + f"/{name}")
    lacking = path / "lacking"
    lacking.write_text("#!/bin/sh\necho cupy scipy\n")
    lacking.chmod(0o755)
    done = device(str(tmp_path / "results"), path=str(path), PYTHON=str(lacking))
    if (SCRIPT.parents[1] / ".venv" / "bin" / "python").exists() and done.returncode == 0:
        pytest.skip("the environment beside the sources has a cupy")
    assert done.returncode == 1 and not (tmp_path / "results").exists()
    assert "says nothing of a driver" in done.stderr and "lacking lacks cupy scipy" in done.stderr


@pytest.mark.parametrize(("words", "said"), [
    ([], "name the folder"), (["--minutes", "x", "f"], "--minutes x"), (["--minutes", "0", "f"], "--minutes 0"),
    (["--only", "all", "f"], "no part all"), (["--peer", "jax", "f"], "--peer"), (["--fast", "f"], "--fast"),
])
def test_wrong_words_are_refused(words: list[str], said: str) -> None:
    done = device(*words)
    assert done.returncode == 2 and said in done.stderr
