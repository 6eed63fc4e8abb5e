"""A comm hook's work on one wire, bucket by bucket, such that what fails on one rank fails on all of them.

    take(parcel): [the hook is called] -> the ranks meet -> its jobs -> what follows;  finish() -> what went wrong

[Note: how nobody hangs] Before the jobs of a bucket, and once more at the end, the ranks tell each other
whether all is well. From the meeting on in which one of them is not, nobody does anything until the end. A
rank that comes to a meeting while others are still in a job, which it left or never began, calls them out of
it: the collectives differ, which raises on all ranks (for collectives with checked=False nobody notices), and
then they meet.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .._typing import Array
from ..comm import Progress, Work
from ..errors import CollectiveMismatchError, CommError, RankFailedError, rank_prefix
from .bucket import Bucket, Hook

__all__ = ["Parcel", "Turns", "Verdict", "name_of", "total_weight"]

_HEADER = struct.Struct("<BI")  # how bad it is, length of the greeting; then the greeting and the error's text
_WELL, _CONSEQUENCE, _CAUSE = range(3)
_TEXT = 1000  # bytes of an error's text that travel


def name_of(hook: Any) -> str:
    """What to call a hook, the same on every rank: without an address in the process's memory."""
    if isinstance(hook, partial):
        return f"partial of {name_of(hook.func)}"
    name = getattr(hook, "__qualname__", None) or repr(hook)
    return type(hook).__qualname__ if " at 0x" in name else str(name)


def total_weight(weights: Sequence[float]) -> float:
    """What ranks weigh together: the sum of their weights, in order; their number, where one has none (NaN)."""
    return float(len(weights)) if any(map(math.isnan, weights)) else float(sum(weights))


@dataclass(frozen=True)
class Verdict:
    """What went wrong, as all ranks of the wire know it.

    Attributes:
        rank: whose fault it is.
        text: what to tell those that have no error of their own.
        error: what this rank is to raise.
    """

    rank: int
    text: str
    error: BaseException


class Parcel(Bucket):
    """What a hook gets: a bucket, or the part of it that one lane carries.

    Attributes:
        send: this rank's gradients, or its node's sums.
        recv: where the mean of `send` over the ranks of the hook's communicator goes.
        total: what all contributions weigh together in this backward: the number of the model's ranks, or the
            sum of the weights that `model.backward` got. It is known when jobs run.
    """

    def __init__(self, bucket: Bucket, begin: int, send: Array, recv: Array) -> None:
        super().__init__(bucket.index, bucket.group, begin, begin + send.size)
        self.placements = bucket.placements
        self.send, self.recv = send, recv
        recv[...] = 0  # between tensors there is memory that no hook need write
        self.total = 0.0
        self.turn: _Turn | None = None

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Work:
        """Queue a call on the wire's thread, with `mean=True` unless said otherwise.

        Raises:
            RuntimeError: not within the hook's call.
        """
        if self.turn is None:
            raise RuntimeError(f"{rank_prefix()}bucket.submit is called inside the hook that got bucket {self.index}; "
                               "what comes later would have no place in the order of the wire")
        kwargs.setdefault("mean", True)
        return self.turn.submit(partial(function, *args, **kwargs))


class _Job(Work):
    """One call that a hook has submitted."""

    __slots__ = ("turn",)

    def __init__(self, turn: _Turn, thread: Progress, function: Callable[..., Any]) -> None:
        super().__init__(thread, function, ())
        self.turn = turn

    @property
    def error(self) -> BaseException | None:
        """What it raised."""
        return self._error

    def wait(self, timeout: float | None = None) -> Any:
        """As for any Work; a hook may wait for its own jobs."""
        self.turn.begin(None)
        return super().wait(timeout)


class _Turn:
    """The jobs of one bucket. They are held back until the hook returns, so that if it raises nobody has begun."""

    def __init__(self, turns: Turns, parcel: Parcel, greeting: bytes) -> None:
        self.turns = turns
        self.parcel = parcel
        self.greeting = greeting
        self.jobs: list[_Job] = []
        self.begun = False

    def submit(self, function: Callable[..., Any]) -> Work:
        job = _Job(self, self.turns.thread, function)
        if self.begun:
            self.turns.thread.submit(self.turns.run, job)
        else:
            self.jobs.append(job)
        return job

    def begin(self, error: Exception | None) -> None:
        if self.begun:
            return
        self.begun = True
        self.turns.thread.submit(self.turns.meet_for, self.parcel, self.greeting, error)
        for job in self.jobs:
            self.turns.thread.submit(self.turns.run, job)


class Turns:
    """One hook on one wire. `take` and `finish` belong to the main thread, the rest to the wire's."""

    def __init__(self, thread: Progress, hook: Hook, greeted: Callable[[list[bytes]], float]) -> None:
        """
        Args:
            thread: owns the hook's communicator.
            greeted: takes all ranks' greetings, once a backward, and says what they weigh together.
        """
        self.thread = thread
        self.comm = thread.comm
        self.hook = hook
        self._name = name_of(hook)
        self._greeted = greeted
        self._total = 0.0
        self._trouble: BaseException | None = None  # what went wrong on this rank, in this backward
        self._verdict: Verdict | None = None

    def take(self, parcel: Parcel, greeting: bytes, then: Callable[[], object]) -> Work:
        """Call the hook and queue what it submits. Never raises on the hook's account; `finish` tells.

        Args:
            greeting: this rank's, at the first call of a backward; empty afterwards.
            then: called when the hook's work is done, if all is well.

        Returns:
            What ends when the bucket is through, well or not.
        """
        parcel.turn = turn = _Turn(self, parcel, greeting)
        work, error = None, None
        try:
            work = self.hook(parcel, self.comm)
            if not isinstance(work, Work):
                raise TypeError(f"a comm hook returns a Work, {self._name} returned {type(work).__name__} for bucket "
                                f"{parcel.index} of {parcel.group.label}")
        except Exception as problem:
            problem.add_note(f"raised by comm hook {self._name} for bucket {parcel.index} of {parcel.group.label}")
            error = problem
        parcel.turn = None
        turn.begin(error)
        return self.thread.submit(self._end, work, error, then)

    def finish(self) -> Verdict | None:
        """Wait until all buckets are through; what went wrong since the last time, on any rank, or None."""
        verdict: Verdict | None = self.thread.submit(self._close).wait()
        return verdict

    def meet_for(self, parcel: Parcel, greeting: bytes, error: Exception | None) -> None:
        """The ranks are about to begin a bucket."""
        self._note(error)
        if self._verdict is None:
            self._meet(greeting)
        parcel.total = self._total

    def run(self, job: _Job) -> None:
        """Do one of the hook's jobs, or refuse it."""
        problem = self._trouble if self._verdict is None else self._verdict.error
        if problem is None:
            job.run()
            self._note(job.error)
        else:
            job.refuse(problem)

    def _end(self, work: Work | None, error: Exception | None, then: Callable[[], object]) -> None:
        self._note(error)  # of a hook that raised when its first jobs had begun
        if work is None or self._trouble is not None or self._verdict is not None:
            return
        try:
            work.wait()
            then()
        except Exception as problem:
            self._note(problem)

    def _close(self) -> Verdict | None:
        if self._verdict is None:
            self._meet(b"")
        verdict, self._verdict, self._trouble = self._verdict, None, None
        return verdict

    def _note(self, problem: BaseException | None) -> None:
        if self._trouble is None:
            self._trouble = problem

    def _meet(self, greeting: bytes) -> None:
        """One short message: is all well everywhere?"""
        trouble = self._trouble
        how = _WELL if trouble is None else _CONSEQUENCE if isinstance(trouble, CommError) else _CAUSE
        text = "" if trouble is None else f"{type(trouble).__name__}: {trouble}"
        mine = _HEADER.pack(how, len(greeting)) + greeting + text.encode()[:_TEXT]
        try:
            messages = self._call(mine)
        except CommError as error:
            self._verdict = Verdict(self.comm.ranks[self.comm.rank], str(error), error)
            return
        heads = [_HEADER.unpack_from(message) for message in messages]
        if any(length for _, length in heads):
            self._total = self._greeted([message[_HEADER.size:_HEADER.size + length]
                                         for message, (_, length) in zip(messages, heads, strict=True)])
        worst = max(heads)[0]
        if worst == _WELL:
            return
        guilty = next(rank for rank, (theirs, _) in enumerate(heads) if theirs == worst)
        said = messages[guilty][_HEADER.size + heads[guilty][1]:].decode(errors="replace")
        number = self.comm.ranks[guilty]
        text = f"comm hook {self._name} raised on rank {number}: {said}"
        own = trouble if trouble is not None and how == worst else None
        self._verdict = Verdict(number, text, own or RankFailedError(rank_prefix() + text, number))

    def _call(self, mine: bytes) -> list[bytes]:
        while True:
            try:
                return self.comm.allgather_bytes(mine)
            except CollectiveMismatchError:
                continue  # the others were in a job of theirs; it has raised there, too, and the next attempt meets
