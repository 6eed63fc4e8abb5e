"""No rank of a test session waits for ever, and what went wrong is seen even when the job is ended.

The ranks exchange the outcome of every test (tests/conftest.py). Here that meeting gets a deadline: a
rank whose fellows are stuck elsewhere shows its own failure and all its stacks, and ends the job.
"""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Generator, Iterator

import pytest

PATIENCE = 20.0  # seconds after its own end of a test that a rank waits for the others' ends
DUMP_AFTER = 45.0  # seconds after which a test shows the stacks of its rank


class Guard:
    """Ends the job when the ranks do not meet in time."""

    def __init__(self, stderr: int) -> None:
        self.stderr = stderr
        self.timer: threading.Timer | None = None

    def arm(self, report: pytest.TestReport) -> None:
        self.disarm()
        self.timer = threading.Timer(PATIENCE, self.give_up, (report,))
        self.timer.daemon = True
        self.timer.start()

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def give_up(self, report: pytest.TestReport) -> None:
        from mpi4py import MPI

        text = f"{report.nodeid} {report.outcome} here in {report.when}; others are not there {PATIENCE:.0f} s later"
        os.write(self.stderr, f"[rank {MPI.COMM_WORLD.rank}] {text}\n{report.longreprtext}\n".encode())
        faulthandler.dump_traceback(file=self.stderr)
        MPI.COMM_WORLD.Abort(1)


_guard: Guard | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _guard
    if not (config.getoption("--with-mpi", False) or config.getoption("--only-mpi", False)):
        return
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_size() > 1 and _guard is None:
        capture = config.pluginmanager.getplugin("capturemanager")
        capture.suspend_global_capture(in_=False)
        _guard = Guard(os.dup(2))  # the real standard error, under the capture
        capture.resume_global_capture()


@pytest.fixture(scope="session", autouse=True)
def the_world_exists_before_the_tests() -> None:
    """What lives as long as the process is no leak of the first test."""
    if _guard is not None:
        from distgrad.comm import world_communicator

        world_communicator()


@pytest.fixture(autouse=True)
def stacks_of_a_stuck_test() -> Iterator[None]:
    if _guard is not None:
        faulthandler.dump_traceback_later(DUMP_AFTER, file=_guard.stderr)
    yield
    if _guard is not None:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True, trylast=True)  # innermost: the report exists, the ranks have not met yet
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _guard is not None:
        _guard.arm(report)
    return report


def pytest_runtest_logreport() -> None:
    if _guard is not None:
        _guard.disarm()
