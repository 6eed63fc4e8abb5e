"""Bucket: a range of flat gradients that is reduced as one message.

    expect -> mark_ready ... -> close -> (an exchange) -> reset

It counts the parameters that it still waits for; `reducer` decides when it leaves, `exchange` how.
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
from ..graph.places import beside

__all__ = ["Bucket", "BucketState", "Hook"]

Hook = Callable[["Bucket", Communicator], Work]


class BucketState(enum.Enum):
    """Where a bucket is in one backward."""

    FILLING = enum.auto()  # gradients arrive; -> CLOSED by close
    CLOSED = enum.auto()   # ranks read and write it; -> FILLING by reset


class Bucket:
    """One range [begin, end) of a group's flat memory.

    Attributes:
        send: this rank's gradients, a view of the group's memory.
        recv: for comm hooks, where the mean over ranks goes.
        placements: the parameters whose slots touch the range.
        wire: for comm hooks, the thread that `submit` gives work to.
        wants_sum: in a weighted backward `mean_hook` sums, and the division follows.
    """

    recv: Array
    wire: Progress

    def __init__(self, index: int, group: Group, begin: int, end: int) -> None:
        self.index = index
        self.group = group
        self.send = group.flat[begin:end]
        self.begin = begin
        self.end = end
        self.placements: list[Placement] = []
        self.state = BucketState.FILLING
        self.wants_sum = False
        self._missing = 0

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
        """Queue a call on the wire's thread, with `mean=True` unless said otherwise or sums are wanted."""
        kwargs.setdefault("mean", not self.wants_sum)
        return self.wire.submit(partial(function, *args, **kwargs))

    def close(self) -> None:
        """No gradient may be written any more; where none came, there are zeros."""
        with beside((self.send,)):
            for placement in self.placements:
                placement.closed = True
                if not placement.filled:
                    low = max(self.begin, placement.slot.offset) - self.begin
                    high = min(self.end, placement.slot.offset + placement.slot.size) - self.begin
                    self.send[low:high] = 0
        self.state = BucketState.CLOSED
        if tracing.listeners:
            tracing.instant("bucket.launch", bucket=self.index, elements=self.end - self.begin)

    def reset(self) -> None:
        """Make ready for the next backward."""
        self.state = BucketState.FILLING
        for placement in self.placements:
            placement.closed = False
