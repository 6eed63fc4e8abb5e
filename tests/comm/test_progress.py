"""The thread that owns the wire."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from distgrad.comm import Progress, SelfCommunicator, deadline, run_ranks
from distgrad.config import Config
from distgrad.errors import CommError

from .test_topology import clean_environment

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def wire():
    found = Progress(SelfCommunicator())
    yield found
    found.close()


def test_jobs_run_in_order_on_one_thread(wire):
    seen = []
    works = [wire.submit(lambda i: seen.append((i, threading.current_thread())) or i * i, i) for i in range(50)]
    assert [work.wait() for work in works] == [i * i for i in range(50)]
    assert [i for i, _ in seen] == list(range(50)) and len({thread for _, thread in seen}) == 1
    assert seen[0][1] is not threading.current_thread()


def test_done_and_wait_again(wire):
    gate = threading.Event()
    work = wire.submit(gate.wait)
    assert not work.done
    gate.set()
    assert work.wait() is True and work.done and work.wait() is True


def test_the_jobs_error_is_raised_on_the_caller(wire):
    work, after = wire.submit(lambda: 1 / 0), wire.submit(lambda: "still there")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            work.wait()
    assert after.wait() == "still there"


def test_a_timeout_of_the_callers(wire):
    gate = threading.Event()
    work = wire.submit(gate.wait)
    with pytest.raises(TimeoutError, match=r"longer than the 0\.05 s"):
        work.wait(0.05)
    gate.set()
    assert work.wait(5) is True


def test_limits_report_and_raise(wire, monkeypatch, capfd):
    monkeypatch.setattr(deadline, "config", Config(soft_timeout=0.1, hard_timeout=0.4))
    gate = threading.Event()

    def stuck_job():
        gate.wait(20)

    wire.submit(stuck_job)
    work = wire.submit(sorted, [])
    try:
        with pytest.raises(CommError, match="hard limit"):
            work.wait()
    finally:
        gate.set()
    said = capfd.readouterr().err
    assert "rank 0 of 1 has waited 0.1 s for job sorted" in said and "stuck_job, 1 queued" in said
    assert "gate.wait(20)" in said and said.count("has waited") == 1


def test_close_finishes_the_queue_and_refuses_more():
    wire = Progress(SelfCommunicator())
    works = [wire.submit(time.sleep, 0.01) for _ in range(5)]
    wire.close()
    wire.close()
    assert all(work.done for work in works)
    with pytest.raises(CommError, match="closed wire"):
        wire.submit(print)


def test_closing_the_communicator_closes_the_wire():
    comm = SelfCommunicator()
    wire = Progress(comm)
    work = wire.submit(comm.allgather_bytes, b"x")
    comm.close()
    assert wire.closed and work.wait() == [b"x"]


def test_the_switch_interval_is_short_while_wires_run():
    before = sys.getswitchinterval()
    first, second = Progress(SelfCommunicator()), Progress(SelfCommunicator())
    assert sys.getswitchinterval() == pytest.approx(2e-4)
    first.close()
    assert sys.getswitchinterval() == pytest.approx(2e-4)
    second.close()
    assert sys.getswitchinterval() == pytest.approx(before)


def test_jobs_see_the_context_of_the_wires_owner():
    name = contextvars.ContextVar("name", default="none")
    name.set("owner")
    wire = Progress(SelfCommunicator())
    assert wire.submit(name.get).wait() == "owner"
    wire.close()


def test_reductions_beside_other_traffic():
    def body(comm):
        wire = Progress(comm.dup())
        buffers = [np.full(3000, comm.rank + i, np.float32) for i in range(20)]
        works = [wire.submit(wire.comm.allreduce, buffer, buffer) for buffer in buffers]
        for _ in range(20):
            comm.barrier()
        for i, work in enumerate(works):
            work.wait()
            assert (buffers[i] == sum(rank + i for rank in range(comm.size))).all()
        wire.close()

    run_ranks(3, body)


SCRIPTS = {
    "idle": "",
    "queued": "works = [wire.submit(time.sleep, 0.05) for _ in range(3)]",
    "stuck": "work = wire.submit(threading.Event().wait)",
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_forgotten_wire_does_not_keep_the_interpreter(kind):
    script = ("import threading, time\nfrom distgrad.comm import Progress, SelfCommunicator\n"
              f"wire = Progress(SelfCommunicator())\n{SCRIPTS[kind]}\nprint('end')")
    begin = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30,
                           env=clean_environment())
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")
    assert time.monotonic() - begin < 5
