"""Real jobs of three ranks in which one rank ends: how the job ends, and what is shown."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgrad.comm import SelfCommunicator, run_ranks
from distgrad.comm.abort import framed, install

from .test_topology import clean_environment

MPIEXEC = Path(sys.executable).parent / "mpiexec"

pytestmark = pytest.mark.timeout(60)
needs_mpi = pytest.mark.skipif(not MPIEXEC.exists(), reason="needs the mpiexec of this environment")

BEGIN = """
import sys, threading, time
import numpy as np
from distgrad.comm import Progress, world_communicator
from distgrad.comm.abort import install
comm = world_communicator()
install(comm)
comm.barrier()
print("begun", flush=True)
started = time.time()
"""
END = """
comm.barrier()
"""


def job(script, tmp_path, ranks=3, **variables):
    """Run `script` on some ranks: (exit status, seconds, output, errors)."""
    path = tmp_path / "job.py"
    path.write_text(BEGIN + script + END)
    environment = clean_environment(
        OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe", PRTE_MCA_hwloc_default_binding_policy="none",
        **variables)
    begin = time.monotonic()
    ended = subprocess.run([MPIEXEC, "-n", str(ranks), sys.executable, path], capture_output=True, text=True,
                           errors="replace", timeout=40, env=environment)
    assert ended.stdout.count("begun") == ranks, ended.stderr
    return ended.returncode, time.monotonic() - begin, ended.stdout, ended.stderr


CASES = {
    # what rank 1 does: (exit status, traceback frames, words)
    "raise ValueError('mine')": (1, 1, ["rank 1 of 3", "ValueError: mine"]),
    "time.sleep(0.3); 1 / 0": (1, 1, ["ZeroDivisionError"]),
    "t = threading.Thread(target=lambda: [][0]); t.start(); t.join()": (1, 1, ["IndexError"]),
    "raise KeyboardInterrupt": (130, 0, ["rank 1 of 3", "was interrupted at"]),
    "sys.exit(7)": (7, 0, ["rank 1 of 3", "sys.exit(7)"]),
    "sys.exit('no data')": (1, 0, ["no data"]),
    "raise SystemExit(3)": (None, 0, ["program of rank 1 has ended"]),
    "sys.exit(0)": (None, 0, ["waits in barrier #2, but the program of rank 1 has ended"]),
    "comm.abort('enough', 9)": (9, 0, ["rank 1 of 3", "enough"]),
    "comm.allreduce(np.ones(3), np.ones(4))": (1, 1, ["ValueError: recv has shape (4,)", "because of another rank"]),
    "comm.allreduce(np.ones(3), np.ones(3))": (1, 1, ["CollectiveMismatchError", "rank 1: allreduce #2"]),
}


@needs_mpi
@pytest.mark.parametrize("action", CASES)
def test_one_rank_ends_the_job(action, tmp_path):
    status, frames, words = CASES[action]
    code, seconds, _, errors = job(f"if comm.rank == 1:\n    {action}", tmp_path)
    assert code == status if status is not None else code != 0, errors
    assert seconds < 8, "the start of a job alone takes up to two seconds"
    assert errors.count("Traceback (most recent call last)") == frames, errors
    assert errors.count("| Traceback") == frames, errors
    for word in words:
        assert word in errors


@needs_mpi
def test_plain_tracebacks_by_configuration(tmp_path):
    code, _, _, errors = job("if comm.rank == 2: raise ValueError('mine')", tmp_path, DISTGRAD_TRACEBACK="plain")
    assert code == 1 and errors.count("Traceback") == 1 and "| Traceback" not in errors


@needs_mpi
@pytest.mark.parametrize("ending", ["", "sys.exit(0)",
                                    "try:\n    sys.exit(4)\nexcept SystemExit as e:\n    print(e.code)"])
def test_an_ordinary_end_is_left_alone(ending, tmp_path):
    code, _, _, errors = job(f"wire = Progress(comm.dup())\nwire.submit(wire.comm.barrier).wait()\n{ending}", tmp_path)
    assert (code, errors) == (0, "")


@needs_mpi
def test_a_rank_may_work_on_alone(tmp_path):
    script = "comm.barrier()\nif comm.rank == 0: time.sleep(1.5)\nraise SystemExit(0)"
    assert job(script, tmp_path)[0] == 0


@needs_mpi
def test_a_rank_that_does_not_come_is_reported_and_ends_the_job(tmp_path):
    code, seconds, _, errors = job("if comm.rank == 1: time.sleep(30)", tmp_path, DISTGRAD_SOFT_TIMEOUT="0.5",
                                   DISTGRAD_HARD_TIMEOUT="1.5")
    assert code == 1 and seconds < 10
    assert "rank 0 of 3 on 'world': barrier #2 has waited" in errors and "gave up after" in errors
    assert "stack of thread 'MainThread'" in errors


@needs_mpi
def test_a_stuck_wire_ends_the_job(tmp_path):
    script = "wire = Progress(comm.dup())\nif comm.rank == 1: time.sleep(30)\nwire.submit(wire.comm.barrier).wait()"
    code, seconds, _, errors = job(script, tmp_path, DISTGRAD_SOFT_TIMEOUT="0.5", DISTGRAD_HARD_TIMEOUT="1.5")
    assert code == 1 and seconds < 10 and "world.1" in errors


def test_nothing_is_installed_for_one_rank_or_for_threads():
    before = sys.excepthook, sys.exit
    install(SelfCommunicator())
    run_ranks(2, install)
    assert (sys.excepthook, sys.exit) == before


def test_the_frame():
    assert framed("one\n  two\n", "rank 0").splitlines() == [
        "+-- rank 0 " + "-" * 67, "| one", "|   two", "+" + "-" * 77]
