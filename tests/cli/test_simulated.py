"""`distgrad run --simulate`: the same script on threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def simulate(script: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distgrad", "run", "-n", "3", "--simulate", *options, str(script), "a"]
    return subprocess.run(command, cwd=script.parent, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def test_every_rank_runs_the_script_in_its_own_world(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("""
import os, sys
from distgrad import distributed
world = distributed.world()
assert __name__ == "__main__" and sys.argv == [__file__, "a"]
mine = [world.rank]
world.barrier()
assert mine == [world.rank], "the ranks' names are their own"
print(f"rank {world.rank} of {world.size} in {os.getpid()}\\n", end="", flush=True)
""")
    done = simulate(script)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.split("\n"))[-3:]
    assert [line.split(" in ")[0] for line in lines] == ["rank 0 of 3", "rank 1 of 3", "rank 2 of 3"]
    assert len({line.split(" in ")[1] for line in lines}) == 1, "one process"


def test_one_rank_that_raises_ends_all(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("""
from distgrad import distributed
world = distributed.world()
if world.rank == 1:
    raise KeyError("no such layer")
world.barrier()
""")
    done = simulate(script)
    assert done.returncode == 1
    assert done.stderr.count("KeyError: 'no such layer'") == 1
    assert "distgrad/cli" not in done.stderr, "the traceback begins in the script"


def test_the_exit_code_of_a_rank_is_the_commands(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys\nsys.exit(5)\n")
    assert simulate(script).returncode == 5


def test_the_timeout_shows_stacks(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import time\ndef sleeping_in_here():\n    time.sleep(600)\nsleeping_in_here()\n")
    done = simulate(script, "--timeout", "3")
    assert done.returncode == 124
    assert done.stderr.count("in sleeping_in_here") == 3
