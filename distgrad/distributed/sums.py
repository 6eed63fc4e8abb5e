"""Sums over ranks of one group's gradients, in a dtype wide enough for them, and what weighted backwards keep of them.

It adds and divides where the gradients lie, and does not know how sums over ranks come about.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..comm.arguments import sum_dtype
from ..flat import Group
from .bucket import Bucket

__all__ = ["Sums"]


class Sums:
    """Where a group's gradients are summed: in their own memory, those of 16 bits in memory of float32.

    Attributes:
        wider: whether the sums have memory of their own.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.dtype = sum_dtype(group.layout.dtype)
        self.wider = self.dtype != group.layout.dtype
        self._wide: Any = None
        self._kept: Any = None  # undivided, of all weighted backwards since the gradients were last empty

    def part(self, bucket: Bucket) -> Any:
        """The bucket's gradients where they may be summed."""
        if not self.wider:
            return bucket.send
        if self._wide is None:
            self._wide = of(bucket.send).xp.empty(self.group.layout.size, self.dtype)
        part = self._wide[bucket.begin:bucket.end]
        part[...] = bucket.send
        return part

    def bring_back(self) -> None:
        """What was summed or averaged in wider memory is the group's gradients."""
        if self.wider:
            self.group.flat[...] = self._wide

    def divide(self, total: float, more: bool) -> None:
        """The gradients become the sum of all weighted ones, over the sum of all weights.

        Args:
            more: there were backwards before, since the gradients were last empty, whose sums count as well.
        """
        flat = self.group.flat
        summed: Any = flat if self._wide is None else self._wide
        xp = of(summed).xp
        if self._kept is None:
            self._kept = xp.empty_like(summed)
        if more:
            xp.add(self._kept, summed, out=summed)
        self._kept[...] = summed
        xp.divide(summed, summed.dtype.type(total), out=flat, casting="same_kind")
