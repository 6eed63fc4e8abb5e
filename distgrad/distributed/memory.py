"""Where the flat memory of a model's groups lies: in a node's shared blocks, or in this process alone.

A rank's block holds, group after group, the gradients, the sums of squares of their grid blocks, and
where asked for, room for sums that are wider than the gradients; at the end, room for short messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._typing import Array
from ..backend import get
from ..comm.arguments import sum_dtype
from ..comm.shared import NodeMemory
from ..flat import GRID, Layout
from .control import message_room

__all__ = ["FlatMemory", "memory_of_groups", "memory_size"]


@dataclass(frozen=True)
class FlatMemory:
    """Flat arrays, for each group.

    Attributes:
        mine: this rank's gradients.
        everyone: the gradients of all ranks; empty without shared memory.
        partials: float64 sums of squares of the grid blocks, one copy a rank; empty without shared memory.
        sums: where each rank may keep undivided sums, if asked for: its gradients themselves, but for float16
            memory of float32.
    """

    mine: list[Array]
    everyone: list[list[Array]]
    partials: list[list[Array]]
    sums: list[list[Array]]


def memory_size(layouts: Sequence[Layout], sums: bool = False) -> int:
    """Bytes that one rank's block needs."""
    size = sum(layout.size * layout.dtype.itemsize + layout.size // GRID * 8 for layout in layouts)
    size += message_room(sum(len(layout.slots) for layout in layouts))
    return size + sum(_wider(layout) for layout in layouts) if sums else size


def _wider(layout: Layout) -> int:
    """Bytes for sums that do not fit where the gradients are."""
    wide = sum_dtype(layout.dtype)
    return 0 if wide == layout.dtype else int(layout.size * wide.itemsize)


def memory_of_groups(layouts: Sequence[Layout], memory: NodeMemory | None, sums: bool = False) -> FlatMemory:
    """Cut the shared blocks into the groups' arrays, or allocate them; all zero."""
    if memory is None:
        xp = get("cpu").xp
        return FlatMemory([xp.zeros(layout.size, layout.dtype) for layout in layouts], [], [], [])
    everyone: list[list[Any]] = []
    partials: list[list[Any]] = []
    undivided: list[list[Any]] = []
    offset = 0
    for layout in layouts:
        middle = offset + layout.size * layout.dtype.itemsize  # a multiple of 4,096: blocks are on the grid
        end = middle + layout.size // GRID * 8
        everyone.append([block[offset:middle].view(layout.dtype) for block in memory.blocks])
        partials.append([block[middle:end].view("float64") for block in memory.blocks])
        offset = end + (_wider(layout) if sums else 0)
        undivided.append([block[end:offset].view(sum_dtype(layout.dtype)) for block in memory.blocks]
                         if offset > end else everyone[-1])
    return FlatMemory([flats[memory.comm.rank] for flats in everyone], everyone, partials, undivided)
