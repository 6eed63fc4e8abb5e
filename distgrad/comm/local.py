"""Ranks as threads of one process: the transport of simulated ranks.

It owns the meeting points at which threads leave and take values, and `run_ranks`, which starts and
ends the threads. Every call is compared over the ranks, and a rank that waits for one that has ended
raises at once. Values are copied on the way, so ranks share no memory through it.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..errors import CollectiveMismatchError, CommError, RankFailedError
from .agreement import disagreement
from .base import Communicator
from .deadline import Deadline, report, stacks

__all__ = ["LocalCommunicator", "run_ranks"]

T = TypeVar("T")


class _World:
    """What the threads of one simulation share: the lock, who has ended, and who has given up."""

    def __init__(self, machines: Sequence[int]) -> None:
        self.machines = machines  # for each rank the number of the machine on which it pretends to be
        self.changed = threading.Condition()
        self.threads: dict[int, int] = {}  # rank -> identity of its thread
        self.ended: dict[int, str] = {}  # rank -> how it ended
        self.aborted: tuple[int, str] | None = None
        self.members: list[list[LocalCommunicator]] = [[] for _ in machines]

    def end(self, rank: int, how: str) -> None:
        with self.changed:
            self.ended[rank] = how
            self.changed.notify_all()

    def abort(self, rank: int, message: str) -> None:
        with self.changed:
            self.aborted = self.aborted or (rank, message)
            self.changed.notify_all()


class _Round:
    """One meeting: what each rank left, who has not come yet, and how many have still to read it."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.missing = set(range(size))
        self.unread = size


class _Channel:
    """The meetings and messages of one communicator, shared by its ranks."""

    def __init__(self) -> None:
        self.rounds: dict[int, _Round] = {}
        self.messages: dict[tuple[int, int, int], deque[Any]] = {}  # (source, dest, tag)
        self.closed: set[int] = set()
        self.broken: str | None = None
        self.lost: tuple[str, int | None] | None = None  # why a rank left a meeting before its end, and for whom


class LocalCommunicator(Communicator):
    """A rank of a simulation; made by `run_ranks`, `dup` and `split`.

    Every collective is checked, also one that was called with `checked=False`. `send` never waits.
    """

    checks_always = True

    def __init__(self, world: _World, channel: _Channel, ranks: Sequence[int], rank: int, name: str) -> None:
        super().__init__(rank, len(ranks), name)
        self.ranks = tuple(ranks)
        self.machine = f"simulated machine {world.machines[ranks[rank]]}".encode()
        self._world = world
        self._channel = channel
        self._round = 0
        world.members[ranks[rank]].append(self)

    def _agree(self, text: str, payload: bytes, error: Exception | None) -> list[bytes]:
        # One meeting carries description and payload: cheaper than the header, and it names the call.
        found = self._exchange((text, payload))
        texts = [item[0] for item in found]
        if error is None and texts.count(text) < self.size:
            error = disagreement(self._where(), texts)
        if error is not None:
            raise error
        return [item[1] for item in found]

    def _allgather_block(self, block: bytes) -> list[bytes]:
        return self._exchange(block)

    def _allgatherv(self, send: Any | None, recv: Any, counts: Sequence[int]) -> None:
        starts = _starts(counts)
        begin = starts[self.rank]
        mine = recv[begin:begin + counts[self.rank]] if send is None else send
        for part, start, count in zip(self._exchange(mine.copy()), starts, counts, strict=True):
            recv[start:start + count] = part

    def _alltoallv(self, send: Any, sendcounts: Sequence[int], recv: Any, recvcounts: Sequence[int],
                   largest: int) -> None:
        found = self._exchange((send.copy(), _starts(sendcounts)))
        for (part, begins), start, count in zip(found, _starts(recvcounts), recvcounts, strict=True):
            begin = begins[self.rank]
            recv[start:start + count] = part[begin:begin + count]

    def _broadcast(self, buffer: Any, root: int) -> None:
        found = self._exchange(buffer.copy() if self.rank == root else None)
        if self.rank != root:
            np.copyto(buffer, found[root])

    def _send(self, buffer: Any, dest: int, tag: int) -> None:
        with self._world.changed:
            self._channel.messages.setdefault((self.rank, dest, tag), deque()).append(buffer.copy())
            self._world.changed.notify_all()

    def _recv(self, buffer: Any, source: int, tag: int) -> None:
        with self._world.changed:
            box = self._channel.messages.setdefault((source, self.rank, tag), deque())
            self._wait(f"recv from rank {source} with tag {tag}", lambda: [] if box else [source])
            found = box.popleft()
        if (found.dtype, found.size) != (buffer.dtype, buffer.size):
            raise CollectiveMismatchError(
                f"{self._who()}: rank {source} sent {found.size} elements of {found.dtype} with tag {tag}, "
                f"but recv expects {buffer.size} of {buffer.dtype}")
        np.copyto(buffer, found)

    def _dup(self, name: str) -> LocalCommunicator:
        channel = self._exchange(_Channel() if self.rank == 0 else None)[0]
        return LocalCommunicator(self._world, channel, self.ranks, self.rank, name)

    def _split(self, name: str, color: int | None, members: Sequence[int]) -> LocalCommunicator | None:
        channels = self._exchange(_Channel())
        if color is None:
            return None
        ranks = [self.ranks[rank] for rank in members]
        return LocalCommunicator(self._world, channels[members[0]], ranks, members.index(self.rank), name)

    def _close(self) -> None:
        with self._world.changed:
            self._channel.closed.add(self.rank)
            self._world.changed.notify_all()

    def _abort(self, message: str, code: int) -> None:
        self._world.abort(self.ranks[self.rank], message)

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's object itself, in rank order: threads can hand each other anything. Collective."""
        with self._collective("exchange", lambda: type(value).__name__):
            return self._exchange(value)

    def raise_if_ended(self, doing: str, ranks: Sequence[int]) -> None:
        """Raise RankFailedError if one of these ranks can never come."""
        with self._world.changed:
            self._raise_if_hopeless(doing, ranks)

    def _exchange(self, value: Any) -> list[Any]:
        """Leave `value`, wait for all ranks to leave theirs, and take all of them in rank order."""
        channel, number = self._channel, self._round
        self._round += 1
        with self._world.changed:
            if channel.lost is not None:  # the ranks no longer count meetings alike
                raise self._lost()
            meeting = channel.rounds.setdefault(number, _Round(self.size))
            meeting.values[self.rank] = value
            meeting.missing.discard(self.rank)
            if not meeting.missing:
                self._world.changed.notify_all()
            try:
                self._wait(self.current, lambda: sorted(meeting.missing))
            except RankFailedError as error:
                if channel.lost is not None:  # who is missing now may have ended for that very reason
                    raise self._lost() from None
                channel.lost = (str(error).partition(f"in {self.current}: ")[2], error.rank)
                raise
            meeting.unread -= 1
            if not meeting.unread:
                del channel.rounds[number]
        return meeting.values

    def _lost(self) -> RankFailedError:
        assert self._channel.lost is not None
        reason, rank = self._channel.lost
        return RankFailedError(f"{self._who()}: in {self.current}: {reason}", rank)

    def _wait(self, doing: str, missing: Callable[[], list[int]]) -> None:
        """Wait, under the world's lock, until nobody is missing; raise as soon as that cannot happen."""
        deadline = Deadline()
        while absent := missing():
            self._raise_if_hopeless(doing, absent)
            self._world.changed.wait(deadline.remaining)
            absent = missing()
            if absent and deadline.hard_passed():
                self._channel.broken = f"waited {deadline.waited:.1f} s in {doing} for {self._called(absent)}"
                self._world.changed.notify_all()
            elif absent and deadline.soft_passed():
                threads = self._world.threads
                idents = [threads[self.ranks[rank]] for rank in absent if self.ranks[rank] in threads]
                report(f"{self._who()} has waited {deadline.waited:.1f} s in {doing} for {self._called(absent)}\n"
                       f"{stacks(idents)}")

    def _raise_if_hopeless(self, doing: str, absent: Sequence[int]) -> None:
        world = self._world
        if world.aborted:
            rank, message = world.aborted
            raise RankFailedError(f"{self._who()}: in {doing}: the simulation was aborted: {message}", rank)
        if self._channel.broken:
            raise CommError(f"{self._who()}: gave up {doing}: a rank {self._channel.broken}")
        for rank in absent:
            number = self.ranks[rank]
            if number in world.ended:
                raise RankFailedError(f"{self._who()}: in {doing}: rank {number} cannot take part, it has "
                                      f"{world.ended[number]}", number)
            if rank in self._channel.closed:
                raise CommError(f"{self._who()}: in {doing}: rank {number} has closed this communicator")
        mine = self.ranks[self.rank]
        if mine in world.ended:
            raise RankFailedError(f"{self._who()}: in {doing}: rank {mine} cannot take part, it has "
                                  f"{world.ended[mine]}", mine)

    def _called(self, ranks: Sequence[int]) -> str:
        numbers = ", ".join(str(self.ranks[rank]) for rank in ranks)
        return f"{'rank' if len(ranks) == 1 else 'ranks'} {numbers}"


def run_ranks(size: int, fn: Callable[[LocalCommunicator], T], nodes: Sequence[int] | None = None) -> list[T]:
    """Call `fn(communicator)` on `size` threads, each as one rank, and return their results in order.

    Each thread runs in its own copy of the caller's context. If ranks raise, the first exception that is
    not merely the consequence of another rank's end is raised here, with a note that names its rank. All
    communicators are closed and all threads have ended when this returns.

    Args:
        nodes: how many ranks pretend to be on the first machine, on the second, and so on; default all on one.
    """
    if size < 1:
        raise ValueError(f"run_ranks needs at least one rank, got {size}")
    if nodes is not None and (sum(nodes) != size or min(nodes) < 1):
        raise ValueError(f"nodes are counts of ranks, at least 1 each and {size} together, got {list(nodes)}")
    world = _World([machine for machine, count in enumerate(nodes or [size]) for _ in range(count)])
    channel = _Channel()
    results: list[Any] = [None] * size
    errors: list[tuple[int, BaseException]] = []  # in the order in which they were raised

    def body(rank: int) -> None:
        communicator = LocalCommunicator(world, channel, range(size), rank, "world")
        world.threads[rank] = threading.get_ident()
        try:
            results[rank] = fn(communicator)
            for member in tuple(world.members[rank]):
                member.run_closers()
            world.end(rank, "returned")
        except BaseException as error:
            errors.append((rank, error))
            world.end(rank, f"raised {type(error).__name__}: {error}")
        finally:
            for member in reversed(world.members[rank]):
                member.close()

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(body, rank),
                                name=f"rank {rank}", daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        world.abort(0, "the calling thread was interrupted")
        raise
    if errors:
        _raise_guilty(errors, size)
    return results


def _raise_guilty(errors: list[tuple[int, BaseException]], size: int) -> None:
    causes = [item for item in errors if not isinstance(item[1], RankFailedError)]
    rank, guilty = (causes or errors)[0]
    guilty.add_note(f"raised on simulated rank {rank} of {size}")
    for other, error in causes[1:]:
        if str(error) != str(guilty) and not isinstance(error, CommError):
            guilty.add_note(f"rank {other} raised as well: {type(error).__name__}: {error}")
    raise guilty


def _starts(counts: Sequence[int]) -> list[int]:
    starts = [0]
    for count in counts[:-1]:
        starts.append(starts[-1] + count)
    return starts
