"""A rank's share of a sharded optimizer's state: what it owns of each flat group, and the rule's arrays for that.

It knows where pieces of parameters lie, and neither how they are updated nor how they travel.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..backend import of
from ..flat import Group
from ..optim.rules import Update
from .param_memory import ParamMemory

__all__ = ["Share", "ShardedArray"]

Piece = tuple[int, int, int, int]


@dataclass(frozen=True)
class ShardedArray:
    """One array of an optimizer's state that lies in pieces with the ranks that own them.

    Attributes:
        key: which of each rank's own arrays holds its pieces.
        shape, dtype: of the whole.
        order: the whole's dimensions in the order in which they lie in memory, the slowest first.
        pieces: (rank, begin, end, at): elements [begin, end) of the whole, in that order, lie in that rank's array
            from `at` on.
    """

    key: str
    shape: tuple[int, ...]
    dtype: Any
    order: tuple[int, ...]
    pieces: tuple[Piece, ...]


class Share:
    """This rank's part of one flat group: what it owns, and the rule's arrays for that, one range after the other."""

    def __init__(self, group: Group, memory: ParamMemory) -> None:
        self.group = group
        self.memory = memory
        self.ranges = group.owned[memory.rank]
        self.size = sum(end - begin for begin, end in self.ranges)
        self.arrays: dict[str, Any] = {}
        self.updates: dict[Any, tuple[Update, list[Any]]] = {}  # of stretches, and the gradients that they take
        self.steps = [0] * len(group.placements)  # of each slot; the same on all ranks, as the gradients are
        self._pieces: list[tuple[Piece, ...]] | None = None

    def array(self, name: str) -> Any:
        """One of the rule's arrays, zeros at first, for all elements that this rank owns."""
        if name not in self.arrays:
            self.arrays[name] = of(self.group.flat).xp.zeros(self.size, self.group.layout.dtype)
        return self.arrays[name]

    def cut(self, begin: int, end: int) -> Iterator[tuple[slice, slice]]:
        """What this rank owns of [begin, end): where it lies in the flat memory, and where in its arrays."""
        before = 0
        for low, high in self.ranges:
            first, last = max(begin, low), min(end, high)
            if first < last:
                yield slice(first, last), slice(before + first - low, before + last - low)
            before += high - low

    def pieces(self) -> list[tuple[Piece, ...]]:
        """For each slot what every rank owns of it, as ShardedArray has it."""
        if self._pieces is None:
            owned = sorted((low, high, rank, before) for rank, ranges in enumerate(self.group.owned)
                           for (low, high), before in zip(ranges, _starts(ranges), strict=True))
            lows = [low for low, *_ in owned]
            self._pieces = []
            for placement in self.group.placements:
                begin, end = placement.slot.offset, placement.slot.offset + placement.slot.size
                near = owned[max(bisect_right(lows, begin) - 1, 0):bisect_left(lows, end)]
                self._pieces.append(tuple(
                    (rank, max(begin, low) - begin, min(end, high) - begin, before + max(begin, low) - low)
                    for low, high, rank, before in near if max(begin, low) < min(end, high)))
        return self._pieces


def _starts(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Where each range begins when they lie one after the other."""
    return [sum(high - low for low, high in ranges[:number]) for number in range(len(ranges))]
