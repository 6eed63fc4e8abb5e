"""What holds for every test: one BLAS thread, nothing left behind, and one voice when there are several ranks.

Under mpiexec every test is judged by all ranks together: what fails on one has failed on all, and
none goes on alone. Rank 0 reports; of the others only their own failures are heard.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

# Before numpy loads its BLAS: two threads change most elements of a sum, and the cores are shared.
for _name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"

import pytest  # noqa: E402 - after the variables

import distgrad  # noqa: E402
from distgrad import config, tracing  # noqa: E402
from distgrad.errors import CollectiveMismatchError  # noqa: E402
from tests import devices  # noqa: E402

Thing = TypeVar("Thing")

SETTLE = 2.0  # seconds that a thread or a process which was told to end may take
HERE = config.launcher()
TOGETHER = HERE is not None and HERE.size != 1
RANK = HERE.rank or 0 if HERE and TOGETHER else 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long, with their big budgets")
    parser.addoption("--device", default="cpu",
                     help="make tensors there unless a test says otherwise: strict, cuda, standin (cupy without a GPU)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if RANK > 0:
        config.option.xmlpath = None  # rank 0 alone writes the report file
    if config.getoption("--device") != "cpu":
        try:
            devices.move_to(config.getoption("--device"))
        except RuntimeError as error:
            raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if RANK > 0 and reporter is not None:
        reporter._tw._file = open(os.devnull, "w")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if RANK > 0 and report.failed and not isinstance(report.longrepr, FailedElsewhere):
        print(f"\n[rank {RANK}] {report.nodeid} failed in {report.when}\n{report.longreprtext}", file=sys.__stderr__,
              flush=True)


class FailedElsewhere(str):
    """What a rank reports whose own part of a test went well."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if TOGETHER:
        failed = [rank for rank, outcome in enumerate(_outcomes(report.outcome)) if outcome == "failed"]
        if failed and not report.failed:
            report.outcome, report.longrepr = "failed", FailedElsewhere(f"failed on ranks {failed}; see there")
    return report


def _outcomes(mine: str) -> list[str]:
    """Every rank's outcome. Ranks that are still inside the test, waiting for one that failed, are called out of it."""
    from distgrad.comm.topology import world_communicator

    while True:
        try:
            return [outcome.decode() for outcome in world_communicator().allgather_bytes(mine.encode())]
        except CollectiveMismatchError:  # raised there too; the next attempt meets
            continue


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") != "cpu":
        devices.leave_out(items, config.getoption("--device"))
    absent = {}
    if not config.getoption("--long"):
        absent["long"] = pytest.mark.skip(reason="run by --long only")
    if importlib.util.find_spec("cupy") is None:
        absent["gpu"] = pytest.mark.skip(reason="needs cupy")
    for item in items:
        for name, skip in absent.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)


def _threads() -> set[threading.Thread]:
    """Threads that a test may not leave: those that keep the process alive, and distgrad's own."""
    return {thread for thread in threading.enumerate()
            if not thread.daemon or thread.name.startswith("distgrad")}


def _children() -> set[int]:
    """Processes that this one started and that still run; what has ended is not counted."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(word) for word in path.read_text().split()]
        except OSError:
            continue
        for pid in pids:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z":
                found.add(pid)
    return found


def _left(ask: Callable[[], set[Thing]], before: set[Thing]) -> set[Thing]:
    """What `ask` finds now and did not find before; things that are ending get a moment to do so."""
    deadline = time.monotonic() + SETTLE
    while (found := ask() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread, a child process, a trace listener or a grad mode."""
    threads, children, listeners, mode = _threads(), _children(), list(tracing.listeners), distgrad.is_grad_enabled()
    yield
    left: list[str] = []
    if more_threads := _left(_threads, threads):
        left.append(f"threads {sorted(thread.name for thread in more_threads)}")
    if more_children := _left(_children, children):
        left.append(f"processes {sorted(more_children)}")
    if tracing.listeners != listeners:
        left.append(f"trace listeners {tracing.listeners}")
        tracing.listeners[:] = listeners
    if distgrad.is_grad_enabled() != mode:
        left.append(f"grad mode {not mode}, which was {mode}")
        distgrad.set_grad_enabled(mode)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)
