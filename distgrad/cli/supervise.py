"""Running a launcher to its end: signals passed on, a time limit, nothing left behind.

It knows a command line and processes, and nothing about MPI or what the ranks do.
"""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from distgrad.cli.launcher import CommandLine

__all__ = ["Ended", "supervise"]

TIMED_OUT = 124  # as coreutils' timeout
PATIENCE = 10.0  # seconds for ranks that SIGTERM asked to save a checkpoint and stop
GRACE = 5.0  # seconds between asking the job to end and killing it
DUMP = 1.0  # seconds for the ranks to write their stacks

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
_MARK = "DISTGRAD_JOB"  # in the ranks' environment, by which they are found, whoever started them


class Ended(NamedTuple):
    """How a job ended. asked: a signal told it to end, or that its time is nearly up."""

    code: int
    asked: bool = False


def supervise(line: CommandLine, environment: dict[str, str], timeout: float | None = None) -> Ended:
    """Run the command to its end and return its exit code.

    SIGINT, SIGTERM and SIGHUP end the job: they are passed on, and what is still there five
    seconds later is killed; the code is then 128 + signal. SIGTERM goes to this node's ranks first,
    which have ten seconds to stop by themselves (launchers kill theirs at once): ranks that save a
    checkpoint then and end with 0 make the code 0. SIGUSR2, for preemption, goes to this node's ranks
    too, and to the launcher only where there are none (MPICH's would die of it). SIGUSR1, for stacks,
    is passed on. After `timeout` seconds every rank writes its stacks to stderr (on SIGUSR1), the
    job is ended, and the code is 124.
    """
    warned, token = False, secrets.token_hex(8)
    environment = {**environment, _MARK: token}
    with _signals() as arrived:
        # In its own group a Ctrl-C reaches the launcher once, from here, and not twice. A process
        # in the background is stopped when it reads a terminal, so it gets none.
        process = subprocess.Popen(line.argv, env=environment, process_group=0,
                                   stdin=subprocess.DEVNULL if os.isatty(0) else None)
        deadline = time.monotonic() + timeout if timeout else None
        while process.poll() is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            numbers = arrived.within(left)
            if left == 0.0 and process.poll() is None:
                print(f"distgrad run: not done after {timeout:g} s; the stacks of all ranks follow, then the job is "
                      "ended", file=sys.stderr, flush=True)
                process.send_signal(signal.SIGUSR1)
                _wait(process, DUMP, arrived)
                _end(process, signal.SIGTERM, arrived)
                return Ended(TIMED_OUT)
            for number in numbers:
                if number in _ENDING:
                    stopped = number == signal.SIGTERM and _stopped(process, token, arrived)
                    if not stopped:
                        _end(process, number, arrived)
                    return Ended(0 if stopped else 128 + number, asked=True)
                if number == signal.SIGUSR2:
                    warned = True
                    if not _tell(token, number):
                        process.send_signal(number)
                elif number in _PASSED_ON:
                    process.send_signal(number)
    return Ended(process.returncode if process.returncode >= 0 else 128 - process.returncode, asked=warned)


class _Arrived:
    """The numbers of the signals that arrive, readable with a time limit."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.selector = selectors.DefaultSelector()
        self.selector.register(end, selectors.EVENT_READ)

    def within(self, seconds: float | None) -> bytes:
        return self.end.recv(512) if self.selector.select(seconds) else b""


@contextmanager
def _signals() -> Iterator[_Arrived]:
    """Turn signals into bytes for the length of the body; SIGCHLD tells that the launcher ended."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    numbers = (*_ENDING, *_PASSED_ON, signal.SIGCHLD)
    before_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    arrived = _Arrived(reader)
    try:
        yield arrived
    finally:
        signal.set_wakeup_fd(before_wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        arrived.selector.close()
        reader.close()
        writer.close()


def _wait(process: subprocess.Popen[bytes], seconds: float, arrived: _Arrived) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and (left := deadline - time.monotonic()) > 0:
        arrived.within(left)


def _stopped(process: subprocess.Popen[bytes], token: str, arrived: _Arrived) -> bool:
    """Ask the ranks on this node to stop, and wait; whether the whole job then ended with 0."""
    if _tell(token, signal.SIGTERM):
        _wait(process, PATIENCE, arrived)
    return process.poll() == 0


def _tell(token: str, number: int) -> bool:
    """Send a signal to the job's ranks on this node, and to no daemon of a launcher's; whether there are any."""
    found = False
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if f"{_MARK}={token}".encode() in (path / "environ").read_bytes().split(b"\0") \
                    and (path / "cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"distgrad.cli.child"]:
                os.kill(int(path.name), number)
                found = True
    return found


def _end(process: subprocess.Popen[bytes], number: int, arrived: _Arrived) -> None:
    """Pass the signal on, wait, and kill what is left on this node."""
    started = _descendants(process.pid)  # while the launcher lives: afterwards its ranks are somebody else's children
    process.send_signal(number)
    _wait(process, GRACE, arrived)
    now = _processes()
    for pid, entry in started.items():
        if pid in now and now[pid].birth == entry.birth:  # a number that was given to another process meanwhile is not
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
    process.wait()


class _Process(NamedTuple):
    parent: int
    birth: str  # clock ticks since boot


def _processes() -> dict[int, _Process]:
    """The processes of this node by pid; empty where there is no /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()  # after the name, which may hold anything
            found[int(path.parent.name)] = _Process(int(fields[1]), fields[19])
    return found


def _descendants(pid: int) -> dict[int, _Process]:
    every = _processes()
    family = {pid}
    while more := {child for child, entry in every.items() if entry.parent in family} - family:
        family |= more
    return {member: every[member] for member in family - {pid}}
