"""`distgrad run` with real processes: what comes out, how it ends, and that nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgrad.cli.launcher import Job, command_line
from distgrad.cli.registry import CommandError
from distgrad.cli.starter import Starter, find_mpiexec, identify

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60  # seconds; a machine that runs other things as well starts MPI slowly

try:
    find_mpiexec(os.environ)
except CommandError:
    pytest.skip("needs an mpiexec", allow_module_level=True)


def start(*arguments: str, script: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "distgrad", "run", *arguments, str(script), "first", "--second"],
                            cwd=script.parent, env=environment, text=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(job: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = job.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        job.terminate()
        out, err = job.communicate(timeout=LIMIT)
        pytest.fail(f"did not end by itself\n{out}\n{err}")
    return job.returncode, out, err


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "train.py"


def pids(folder: Path, count: int) -> list[int]:
    """Wait until that many ranks have left their pids in the folder."""
    deadline = time.monotonic() + LIMIT
    while len(found := [path for path in folder.glob("*.pid") if path.read_text()]) < count:
        assert time.monotonic() < deadline, "the ranks did not start"
        time.sleep(0.02)
    return [int(path.read_text()) for path in found]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def all_gone(found: list[int], within: float = 5.0) -> bool:
    deadline = time.monotonic() + within
    while not all(map(gone, found)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return all(map(gone, found))


RANK = "from distgrad.comm.topology import world_communicator\nworld = world_communicator()\n"
LEAVE_PID = RANK + """
import os, time
with open(f"{world.rank}.pid", "w") as file:
    file.write(str(os.getpid()))
"""


def test_two_ranks_run_the_script_as_main(script: Path) -> None:
    (script.parent / "beside.py").write_text("value = 7\n")
    script.write_text(RANK + """
import os, sys, beside
assert __name__ == "__main__" and sys.modules["__main__"].world is world
assert sys.argv == [__file__, "first", "--second"]
assert os.environ["OMP_NUM_THREADS"] and os.environ["PYTHONUNBUFFERED"] == "1"
print(f"rank {world.rank} of {world.size}, {beside.value}\\n", end="")
""")
    code, out, err = finish(start("-n", "2", script=script))
    assert code == 0, err
    assert sorted(out.split("\n")[:2]) == ["rank 0 of 2, 7", "rank 1 of 2, 7"]
    assert "-n 2" in err.splitlines()[0] and "distgrad.cli.child" in err.splitlines()[0]


def test_one_rank_that_raises_ends_all_with_one_traceback(script: Path) -> None:
    script.write_text(RANK + """
import time
world.barrier()
with open(f"{world.rank}.time", "w") as file:
    file.write(str(time.time()))
if world.rank == 1:
    raise KeyError("no such layer")
world.barrier()
""")
    code, out, err = finish(start("-n", "2", script=script))
    ended = time.time()
    assert code not in (0, 124)
    assert ended - float((script.parent / "1.time").read_text()) < 5
    assert (out + err).count("Traceback (most recent call last)") == 1
    assert (out + err).count("KeyError: 'no such layer'") == 1
    assert "rank 1" in out + err
    assert "distgrad/cli" not in out + err, "the traceback begins in the script"


def test_a_rank_that_exits_with_a_code_does_not_leave_the_others_waiting(script: Path) -> None:
    script.write_text(LEAVE_PID + """
import sys
world.barrier()
if world.rank == 0:
    sys.exit(3)
world.barrier()
""")
    job = start("-n", "2", script=script)
    found = pids(script.parent, 2)
    code, _, _ = finish(job)
    assert code != 0 and all_gone(found)


def test_all_ranks_may_exit_with_a_code(script: Path) -> None:
    script.write_text(RANK + "import sys\nprint('said to the end')\nworld.barrier()\nsys.exit(3)\n")
    code, out, _ = finish(start("-n", "2", script=script))
    assert code != 0 and out.count("said to the end") == 2


def test_the_timeout_shows_stacks_and_ends_the_job(script: Path) -> None:
    script.write_text(LEAVE_PID + "def sleeping_in_here():\n    time.sleep(600)\nsleeping_in_here()\n")
    job = start("-n", "2", "--timeout", "6", script=script)
    found = pids(script.parent, 2)
    code, out, err = finish(job)
    assert code == 124
    assert (out + err).count("in sleeping_in_here") == 2
    assert all_gone(found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signals_end_the_job(number: signal.Signals, script: Path) -> None:
    script.write_text(LEAVE_PID + "time.sleep(600)\n")
    job = start("-n", "2", script=script)
    found = pids(script.parent, 2)
    job.send_signal(number)
    code, _, _ = finish(job)
    assert code == 128 + number
    assert all_gone(found)


def test_ranks_that_ignore_the_signal_are_killed(script: Path) -> None:
    script.write_text(LEAVE_PID + """
import signal
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    time.sleep(1)
""")
    job = start("-n", "2", script=script)
    found = pids(script.parent, 2)
    job.send_signal(signal.SIGTERM)
    code, _, _ = finish(job)
    assert code == 128 + signal.SIGTERM and all_gone(found)


def test_input_reaches_rank_0_and_a_module_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(
        RANK + "import sys\nif world.rank == 0:\n    print(sys.stdin.readline().strip(), sys.argv[1:], __package__)\n")
    done = subprocess.run([sys.executable, "-m", "distgrad", "run", "-n", "2", "-m", "package", "--lr", "1"],
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, input="some text\n", text=True,
                          capture_output=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "some text ['--lr', '1'] package"


def test_a_job_that_fails_is_started_again_and_goes_on(script: Path) -> None:
    script.write_text(RANK + """
import os
from pathlib import Path
mark = Path(f"{world.rank}.step")
step = int(mark.read_text()) if mark.exists() else 0
world.barrier()
print(f"rank {world.rank} goes on at {step}\\n", end="", flush=True)
mark.write_text(str(step + 1))
world.barrier()
if step < 2 and world.rank == 1:
    os._exit(7)
world.barrier()
""")
    code, out, err = finish(start("-n", "2", "--max-restarts", "2", script=script))
    assert code == 0, err
    assert [out.count(f"goes on at {step}") for step in range(4)] == [2, 2, 2, 0]
    assert "attempt 2 of 3 starts in 1 s" in err and "attempt 3 of 3 starts in 2 s" in err


def test_sigusr2_reaches_the_ranks_and_is_no_failure(script: Path) -> None:
    script.write_text(LEAVE_PID + """
import signal, sys
warned = []
signal.signal(signal.SIGUSR2, lambda number, frame: warned.append(number))
print("ready", flush=True)
deadline = time.monotonic() + 60
while not warned and time.monotonic() < deadline:
    time.sleep(0.01)
world.barrier()
sys.exit(0 if warned else 1)
""")
    job = start("-n", "2", "--max-restarts", "3", script=script)
    assert job.stdout is not None
    assert [job.stdout.readline().strip() for _ in range(2)] == ["ready", "ready"]
    job.send_signal(signal.SIGUSR2)
    code, _, err = finish(job)
    assert code == 0 and "attempt" not in err


def test_sigterm_lets_ranks_save_and_stop(script: Path) -> None:
    script.write_text(RANK + """
import time
from pathlib import Path
from distgrad import nn
from distgrad.distributed import DataParallel, stop_on_signals
import distgrad as dg
stop_on_signals()
model = DataParallel(nn.Linear(2, 1))
for step in range(10000):
    model(dg.ones(1, 2)).sum().backward()
    time.sleep(0.01)
    if step == 3:
        print("ready", flush=True)
    if model.stop_requested:
        time.sleep(3)  # a checkpoint takes its time
        Path(f"{world.rank}.saved").write_text(str(step))
        break
""")
    job = start("-n", "2", "--max-restarts", "2", script=script)
    assert job.stdout is not None
    assert [job.stdout.readline().strip() for _ in range(2)] == ["ready", "ready"]
    job.send_signal(signal.SIGTERM)
    code, _, err = finish(job)
    assert code == 0 and "attempt" not in err, err
    saved = [(script.parent / f"{rank}.saved").read_text() for rank in range(2)]
    assert saved[0] == saved[1], "the same step"


def test_ranks_that_form_no_world_are_refused(script: Path) -> None:
    """By a launcher that nobody knows, and that starts its processes without MPI."""
    odd = script.parent / "mpiexec"
    odd.write_text("""#!/bin/bash
[ "$1" = --version ] && { echo "odd 1.0"; exit; }
ranks=$2 code=0
shift 2
for ((rank = 0; rank < ranks; rank++)); do "$@" & done
for job in $(jobs -p); do wait "$job" || code=1; done
exit $code
""")
    odd.chmod(0o755)
    script.write_text(RANK + "print('trains alone')\n")
    line = command_line(Job(2, (str(script),)), Starter(str(odd), identify(str(odd))), {})
    done = subprocess.run(line.argv, env={**os.environ, **line.variables, "PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True, timeout=LIMIT)
    assert done.returncode == 1 and "trains alone" not in done.stdout
    assert done.stderr.count("distgrad: distgrad run started 2 tasks, but MPI") == 2 and "Traceback" not in done.stderr
