"""Bucket: a range of flat gradients that is reduced as one message.

    expect -> mark_ready ... -> launch -> wait -> reset

It counts the parameters that it still waits for; `reducer` decides when it may launch.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import tracing
from .._typing import Array
from ..comm import Communicator, Progress, Work
from ..flat import Group, Placement

__all__ = ["Bucket", "BucketState"]

Hook = Callable[["Bucket", Communicator], Work]


class BucketState(enum.Enum):
    """Where a bucket is in one backward."""

    FILLING = enum.auto()    # gradients arrive; -> LAUNCHED by launch
    LAUNCHED = enum.auto()   # the wire reads `send` and writes `recv`; -> DONE by wait
    DONE = enum.auto()       # `recv` holds the mean; -> FILLING by reset


class Bucket:
    """One range [begin, end) of a group's flat memory.

    Attributes:
        send: this rank's gradients, a view of the group's memory; read-only for hooks.
        recv: where the mean over ranks goes.
        placements: the parameters whose slots touch the range.
    """

    def __init__(self, index: int, group: Group, recv: Array, begin: int, end: int, wire: Progress) -> None:
        self.index = index
        self.group = group
        self.send = group.flat[begin:end]
        self.recv = recv[begin:end]
        self.begin = begin
        self.end = end
        self.placements: list[Placement] = []
        self.state = BucketState.FILLING
        self._wire = wire
        self._missing = 0
        self._work: Work | None = None

    def expect(self, count: int) -> None:
        """So many parameters of this bucket will get a gradient in this backward."""
        self._missing = count

    def mark_ready(self) -> None:
        """One of them has its gradient."""
        self._missing -= 1

    @property
    def ready(self) -> bool:
        """Whether all expected gradients have arrived."""
        return self._missing <= 0

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Work:
        """Queue a call on the wire's thread; for sums, `mean=True` unless said otherwise."""
        kwargs.setdefault("mean", True)
        return self._wire.submit(partial(function, *args, **kwargs))

    def launch(self, hook: Hook, comm: Communicator) -> None:
        """Close the slots, put zeros where no gradient came, and start the exchange.

        Raises:
            TypeError: the hook returned no Work.
        """
        for placement in self.placements:
            placement.closed = True
            if not placement.filled:
                low = max(self.begin, placement.slot.offset) - self.begin
                high = min(self.end, placement.slot.offset + placement.slot.size) - self.begin
                self.send[low:high] = 0
        if tracing.listeners:
            tracing.instant("bucket.launch", bucket=self.index, elements=self.end - self.begin)
        self._work = hook(self, comm)
        if not isinstance(self._work, Work):
            raise TypeError(f"a comm hook returns a Work, {getattr(hook, '__qualname__', hook)} returned "
                            f"{type(self._work).__name__} for bucket {self.index}")
        self.state = BucketState.LAUNCHED

    def wait(self) -> None:
        """Return when the mean is there; raise what the exchange raised."""
        assert self._work is not None
        self._work.wait()
        self._work = None
        self.state = BucketState.DONE

    def reset(self) -> None:
        """Make ready for the next backward; late gradients may be written again."""
        self.state = BucketState.FILLING
        self._work = None
        for placement in self.placements:
            placement.closed = False
