"""Memory that all ranks of one node map: each rank's block, and a line of counters for each rank.

It owns how such memory comes to be (memfd: without a name, so nothing is left behind by any death), how
it is probed, and how ranks wait for each other's counters. What lies in the blocks is the users' affair.

[Note: store order] A rank fills memory and then raises its counter with one 8-byte store. Processors of
the x86 family make stores visible in the order in which they were made; others would need fences that
Python does not have, so there this memory is not offered.
"""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import select
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import get
from ..errors import CommError, RankFailedError
from .base import Communicator
from .deadline import Deadline, report, stacks
from .local import LocalCommunicator

__all__ = ["LINE", "NodeMemory", "node_memory"]

LINE = 64            # bytes between two ranks' counters: a cache line each
_HEADER = 4096       # bytes before a rank's block: its counters, and a nonce for the probe
_NONCE = slice(1024, 1040)
_PATIENCE = 4000     # looks at a time, with the core offered to others in between: some 200 microseconds
_TURNS = 10          # such times before naps
_NAP = 5e-5          # seconds
_ROUND = 64          # naps between two looks at clock and peers
_ORDERED = ("x86_64", "AMD64", "i686")


class NodeMemory:
    """Blocks of all ranks, mapped by every rank.

    Attributes:
        blocks: for each rank its bytes, a numpy array of uint8; every rank may read and write all.
        rows, patience: the counters, and how often one look at them looks; for kernels that wait by themselves.
    """

    def __init__(self, comm: Communicator, segments: Sequence[Any], watch: Callable[[str, list[int]], None]) -> None:
        self.comm = comm
        self.blocks = [segment[_HEADER:] for segment in segments]
        # For each rank a row of eight int64, written by that rank alone. A memoryview reads faster than numpy.
        self.rows = [segment[:LINE].view(np.int64) for segment in segments]
        self.patience = _PATIENCE if comm.ranks_are_processes else 1
        self._counters = [memoryview(row) for row in self.rows]
        self._mine = self._counters[comm.rank]
        self._values = [memoryview(segment[LINE:2 * LINE]).cast("d") for segment in segments]
        self._look = get("cpu").kernels.watch_plan(self.rows, self.patience)
        self._watch = watch

    def raise_counter(self, column: int, value: int) -> None:
        """Tell all ranks that this one has come so far."""
        self._mine[column] = value

    def reached_by_any(self, column: int, value: int) -> bool:
        """Whether the counter of any rank has come to `value`."""
        return any(row[column] >= value for row in self._counters)

    def leave(self, value: float) -> None:
        """Put a number where all ranks can read it; raise a counter afterwards to say that it is there."""
        self._values[self.comm.rank][0] = value

    def values(self) -> list[float]:
        """The numbers that the ranks left."""
        return [row[0] for row in self._values]

    def reached(self, column: int, value: int, ranks: slice = slice(None)) -> bool:
        """Whether the counter of every rank, or of those in a range, has come to `value`."""
        for row in self._counters[ranks]:
            if row[column] < value:
                return False
        return True

    def wait(self, column: int, value: int, doing: str, between: Callable[[], object] | None = None) -> None:
        """Return when every rank's counter has come to `value`.

        Looks again and again while it offers the core to others, then naps; watches the clock and the other
        ranks meanwhile.

        Args:
            doing: what this rank waits for, for messages.
            between: called now and then while waiting: work that others may wait for.

        Raises:
            RankFailedError: a rank that is missing has ended.
            CommError: the hard limit has passed.
        """
        if self.reached(column, value):
            return
        size = len(self._counters)
        if between is None and self._look(column, value, 0, size):
            return
        deadline = Deadline()
        turns = 0
        while True:
            if between is not None:
                between()
            if self._look(column, value, 0, size):
                return
            turns += 1
            if turns > _TURNS or not self.comm.ranks_are_processes:
                time.sleep(_NAP)
                if turns % _ROUND == 0:
                    self._look_round(column, value, doing, deadline)

    def _look_round(self, column: int, value: int, doing: str, deadline: Deadline) -> None:
        missing = [rank for rank, row in enumerate(self._counters) if row[column] < value]
        if not missing:
            return
        self._watch(doing, missing)
        comm = self.comm
        text = (f"rank {comm.ranks[comm.rank]} on {comm.name!r} has waited {deadline.waited:.1f} s in {doing} for "
                f"rank(s) {', '.join(str(comm.ranks[rank]) for rank in missing)}")
        if deadline.hard_passed():
            if comm.ranks_are_processes:
                comm.abort(f"{text}, which is past the hard limit\n{stacks()}")
            raise CommError(f"{text}, which is past the hard limit")
        if deadline.soft_passed():
            report(f"{text}\n{stacks()}")


class _Processes:
    """Hears at once when the process of another rank has ended, where the system offers pidfds."""

    def __init__(self, comm: Communicator, pids: Sequence[int]) -> None:
        self.comm = comm
        self.poll = select.poll()
        self.ranks: dict[int, int] = {}
        for rank, pid in enumerate(pids):
            if rank != comm.rank:
                try:
                    descriptor = os.pidfd_open(pid)
                except (AttributeError, OSError):
                    continue  # the launcher and the deadline remain
                self.ranks[descriptor] = rank
                self.poll.register(descriptor, select.POLLIN)

    def __call__(self, doing: str, missing: list[int]) -> None:
        for descriptor, _ in self.poll.poll(0):
            rank = self.ranks[descriptor]
            if rank in missing:
                number = self.comm.ranks[rank]
                raise RankFailedError(f"rank {self.comm.ranks[self.comm.rank]} on {self.comm.name!r}: in {doing}: the "
                                      f"process of rank {number} has ended", number)


def node_memory(comm: Communicator, nbytes: int) -> NodeMemory | str:
    """Memory of every rank of `comm`, mapped by all of them. Collective.

    Args:
        nbytes: how much this rank brings in.

    Returns:
        The memory; or, on every rank alike, the reason why there is none.
    """
    if platform.machine() not in _ORDERED:
        return f"processors of the kind {platform.machine()} do not keep the order of stores"
    if isinstance(comm, LocalCommunicator):
        return NodeMemory(comm, comm.exchange(np.zeros(nbytes + _HEADER, np.uint8)), comm.raise_if_ended)
    if comm.size == 1:
        return NodeMemory(comm, [np.zeros(nbytes + _HEADER, np.uint8)], lambda doing, missing: None)
    return _map_processes(comm, nbytes + _HEADER)


def _map_processes(comm: Communicator, nbytes: int) -> NodeMemory | str:
    mine = _attempt(comm, lambda: _allocate(nbytes))
    if isinstance(mine, str):
        return mine
    array, descriptor = mine
    handles = [struct.unpack("qqq", handle)
               for handle in comm.allgather_bytes(struct.pack("qqq", nbytes, os.getpid(), descriptor))]
    try:
        segments = _attempt(comm, lambda: [array if rank == comm.rank else _open(*handle)
                                           for rank, handle in enumerate(handles)])
    finally:
        os.close(descriptor)
    if isinstance(segments, str):
        return segments
    # Are they really the same memory? Every rank leaves a number in its own and looks for all others'.
    nonce = secrets.token_bytes(16)
    array[_NONCE] = np.frombuffer(nonce, np.uint8)
    announced = comm.allgather_bytes(nonce)
    seen = all(bytes(segment[_NONCE]) == theirs for segment, theirs in zip(segments, announced, strict=True))
    if b"" in comm.allgather_bytes(b"seen" if seen else b""):
        return "a rank does not see what another one writes"
    return NodeMemory(comm, segments, _Processes(comm, [pid for _, pid, _ in handles]))


def _attempt(comm: Communicator, action: Callable[[], Any]) -> Any:
    """action()'s result if it succeeded on every rank; else, on every rank, the first one's reason. Collective."""
    result, problem = None, ""
    try:
        result = action()
    except OSError as error:
        problem = f"rank {comm.ranks[comm.rank]}: {error}"
    problems = [text.decode() for text in comm.allgather_bytes(problem.encode()) if text]
    return problems[0] if problems else result


def _allocate(nbytes: int) -> tuple[Any, int]:
    """A segment of this process's own, and its descriptor.

    Its pages are reserved now, by their owner, so that too little memory is an OSError here and not
    a SIGBUS later, and so that they lie near the owner's core.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError(f"{sys.platform} has no memfd_create")
    descriptor = os.memfd_create("distgrad")
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
        return np.frombuffer(mmap.mmap(descriptor, nbytes), np.uint8), descriptor
    except OSError:
        os.close(descriptor)
        raise


def _open(nbytes: int, pid: int, number: int) -> Any:
    """Another process's segment, through its descriptor in /proc."""
    descriptor = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != nbytes:
            raise OSError(f"descriptor {number} of process {pid} is not the memory that was announced")
        return np.frombuffer(mmap.mmap(descriptor, nbytes), np.uint8)
    finally:
        os.close(descriptor)
