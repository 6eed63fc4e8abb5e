"""Watches the MPI calls in which this process waits, and speaks or ends the job when one lasts too long.

A thread blocked in MPI can neither look at a clock nor be interrupted, so a second one does. It also
hears when another rank's program has ended while this one still waits for it, which would hang both.
"""

from __future__ import annotations

import atexit
import json
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ...errors import CommError
from ..deadline import Deadline, report, stacks
from .library import library

if TYPE_CHECKING:
    from .communicator import MPICommunicator

__all__ = ["Farewell", "expect_farewells", "start", "watched"]

# Seconds between two looks at the waiting calls.
_PERIOD = 0.25

_waiting: dict[int, watched] = {}  # identity of the thread -> its call
_members: WeakSet[MPICommunicator] = WeakSet()
_ended = threading.Event()
_thread: threading.Thread | None = None
_farewell: Farewell | None = None


class watched:
    """Around one blocking MPI call: known to the watching thread, and MPI's errors become CommError."""

    __slots__ = ("comm", "deadline", "doing")

    def __init__(self, comm: MPICommunicator, doing: str = "") -> None:
        self.comm = comm
        self.doing = doing or comm.current

    def __enter__(self) -> None:
        self.deadline = Deadline()
        _waiting[threading.get_ident()] = self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        del _waiting[threading.get_ident()]
        if error is not None and isinstance(error, library().Exception):
            raise CommError(f"{self}: MPI reports: {error}") from error

    def __str__(self) -> str:
        return f"{self.comm._who()}: {self.doing}"


class Farewell:
    """Lets ranks that wait know which other ranks' programs have ended, and how far those had come.

    At exit every rank tells ranks 0 and 1 the number of its last collective on each communicator. A
    collective with a higher number can never finish, whoever else takes part: rank 0 or 1 ends the job.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.gone: dict[int, dict[str, int]] = {}  # rank -> communicator's name -> number of its last collective

    def say(self) -> None:
        """Tell that this rank's program has ended."""
        rank = self.comm.Get_rank()
        progress = {member.name: member.order for member in _members if not member.closed}
        text = json.dumps(progress).encode()
        self.sent = [self.comm.Isend(text, dest) for dest in (0, 1) if dest != rank]

    def hear(self) -> None:
        """Take the farewells that have arrived."""
        mpi = library()
        status = mpi.Status()
        while self.comm.Iprobe(mpi.ANY_SOURCE, mpi.ANY_TAG, status):
            data = bytearray(status.Get_count(mpi.BYTE))
            self.comm.Recv(data, status.Get_source(), status.Get_tag())
            self.gone[status.Get_source()] = json.loads(data.decode())

    def missing(self, member: MPICommunicator) -> list[int]:
        """The ranks that ended before they reached the collective in which `member` is."""
        return [rank for rank, progress in self.gone.items() if progress.get(member.name, member.order) < member.order]


def start(member: MPICommunicator) -> None:
    """Watch this communicator's calls from now on."""
    global _thread
    _members.add(member)
    if _thread is None:
        _thread = threading.Thread(target=_watch, name="mpi watch", daemon=True)
        _thread.start()
        atexit.register(_stop)


def expect_farewells(world: Any) -> None:
    """From now on the ranks of `world` tell when they end, over a duplicate of their own. Collective."""
    global _farewell
    if _farewell is None:
        _farewell = Farewell(world.Dup())


def _watch() -> None:
    while not _ended.wait(_PERIOD):
        for call in tuple(_waiting.values()):
            _look(call)


def _look(call: watched) -> None:
    deadline = call.deadline
    if deadline.waited < _PERIOD:
        return
    if _farewell is not None and call.comm.name.startswith("world"):
        _farewell.hear()
        if gone := _farewell.missing(call.comm):
            call.comm.abort(f"waits in {call.doing}, but the program of rank {gone[0]} has ended without it")
    if deadline.hard_passed():
        report(stacks())
        call.comm.abort(f"gave up after {deadline.waited:.1f} s in {call.doing}")
    if deadline.soft_passed():
        report(f"{call} has waited {deadline.waited:.1f} s\n{stacks()}")


def _stop() -> None:
    _ended.set()
    if _thread is not None:
        _thread.join()
    if _farewell is not None:
        _farewell.say()
