"""Where each parameter's slot lies in flat memory, how it is cut into buckets, and who owns which part.

[Note: grid] A fixed grid of 4,096 elements lies over every layout. Buckets, shares of ranks and
partial sums are cut on it, so sums of squares depend neither on ranks nor on buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._typing import Array, DType, Shape

__all__ = ["GRID", "Layout", "Range", "Slot", "plan", "share"]

Range = tuple[int, int]  # elements [begin, end)

GRID = 4096
_ALIGNMENT = 64  # bytes; a cache line, and what vector loads like


@dataclass(frozen=True)
class Slot:
    """One parameter's place in the layout: elements [offset, offset + size)."""

    index: int
    name: str
    offset: int
    size: int
    shape: Shape
    order: tuple[int, ...]  # dimensions from the slowest to the fastest in memory

    def view(self, flat: Array) -> Array:
        """This slot of a flat array, in the parameter's shape and memory order."""
        part = flat[self.offset:self.offset + self.size]
        inverse = [0] * len(self.order)
        for position, dimension in enumerate(self.order):
            inverse[dimension] = position
        return part.reshape([self.shape[d] for d in self.order]).transpose(inverse)


@dataclass(frozen=True)
class Layout:
    """Slots of one dtype and device in flat memory, cut into buckets on the grid.

    Attributes:
        size: elements, a multiple of GRID; what no slot covers stays zero.
        buckets: (begin, end) of each, in the order in which backward fills them.
    """

    dtype: DType
    size: int
    slots: tuple[Slot, ...]
    buckets: tuple[tuple[int, int], ...]

    def buckets_of(self, slot: Slot) -> range:
        """The buckets that a slot touches: one, or several when it crosses their borders."""
        width, last = self.buckets[0][1], len(self.buckets) - 1  # a slot without elements may lie behind the last
        return range(min(slot.offset // width, last), min((slot.offset + max(slot.size, 1) - 1) // width, last) + 1)


def plan(named: Sequence[tuple[str, Array]], bucket_bytes: int) -> Layout:
    """Lay parameters out in reverse registration order: the order in which backward finishes them.

    Args:
        named: (name, array) of one dtype, in registration order.
        bucket_bytes: the size of a bucket, rounded up to the grid.
    """
    dtype = named[0][1].dtype
    unit = max(1, _ALIGNMENT // dtype.itemsize)
    slots = []
    offset = 0
    for index, (name, array) in enumerate(reversed(named)):
        order = tuple(sorted(range(array.ndim), key=lambda d, s=array.strides: (-s[d], d)))  # type: ignore[misc]
        slots.append(Slot(index, name, offset, array.size, tuple(array.shape), order))
        offset += -(-array.size // unit) * unit
    size = -(-max(offset, 1) // GRID) * GRID
    width = max(1, -(-bucket_bytes // (GRID * dtype.itemsize))) * GRID
    buckets = tuple((begin, min(begin + width, size)) for begin in range(0, size, width))
    return Layout(dtype, size, tuple(slots), buckets)


def share(size: int, rank: int, ranks: int) -> tuple[int, int]:
    """The part of [0, size) that a rank owns, cut on the grid; parts differ by one block at the most."""
    blocks = size // GRID
    return blocks * rank // ranks * GRID, blocks * (rank + 1) // ranks * GRID
