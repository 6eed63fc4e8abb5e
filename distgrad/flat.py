"""Flat memory: where the gradients of many parameters lie side by side, and in which state they are.

A Layout says where each parameter's slot is; a Group is one flat gradient buffer with its state; a
Placement ties one parameter to its slot. Clipping, optimizers and data parallelism do not see each
other: they meet here. It knows neither graph nor wire; both give it callables and tensors.

[Note: grid] A fixed grid of 4,096 elements lies over every layout. Buckets, shares of ranks and
partial sums are cut on it, so sums of squares depend neither on ranks nor on buckets.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._typing import Array, DType, Shape
from .backend import of

__all__ = ["GRID", "Group", "Layout", "Placement", "Slot", "State", "plan", "share",
           "share_sizes"]

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
        width = self.buckets[0][1]
        return range(slot.offset // width, (slot.offset + max(slot.size, 1) - 1) // width + 1)


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


def share_sizes(size: int, ranks: int) -> list[int]:
    """How many elements each rank owns, in rank order."""
    return [end - begin for begin, end in (share(size, rank, ranks) for rank in range(ranks))]


class State(enum.Enum):
    """What a group's gradients are."""

    EMPTY = enum.auto()     # no gradient yet; a backward makes it LOCAL
    LOCAL = enum.auto()     # this rank's own sum; a reduction makes it REDUCED
    REDUCED = enum.auto()   # the mean over ranks; zero_grad makes it EMPTY


@dataclass(eq=False)
class Group:
    """One flat gradient buffer and what is known of it.

    Attributes:
        layout: where the slots are.
        flat: the gradients, `layout.size` elements.
        state: see State; single-process groups go from EMPTY to REDUCED at once.
        rank, ranks: who shares the work of one pass over the buffer.
        gather: (this rank's share of float64 partials, the ranks' counts) -> those of all, in rank order.
        comm: of the ranks that share the gradients, for whoever needs collectives of their own.
        label: what to call the owner in messages.
    """

    layout: Layout
    flat: Array
    rank: int = 0
    ranks: int = 1
    gather: Callable[[Array, list[int]], Array] = lambda part, counts: part
    comm: Any = None
    label: str = "the model"
    state: State = State.EMPTY
    placements: list[Placement] = field(default_factory=list)
    live: int = 0  # parameters whose .grad is there
    partials: Array | None = None  # sums of squares of the grid blocks, if the reduction took them
    _seen: list[int] = field(default_factory=list)
    sums_elsewhere: bool = False  # whoever reduces keeps what was reduced before (weighted means)
    stash: Array | None = None  # reduced gradients of earlier backwards, while another one runs

    def begin_round(self) -> None:
        """Before a new local gradient joins a reduced one: keep the reduced part aside.

        Local slots are consumed by a reduction, so reduced and local sums never mix in one slot.
        """
        if not self.sums_elsewhere:
            self.stash = self.flat.copy()
        for placement in self.placements:
            placement.filled = False
        self.state = State.LOCAL

    def end_round(self) -> None:
        """The memory now holds the mean over ranks; earlier reduced gradients join it."""
        self.state = State.REDUCED
        if self.stash is not None:
            self.flat += self.stash
            self.stash = self.partials = None  # the squares were those of the new part alone

    def note_partials(self, partials: Array) -> None:
        """The sums of squares of all grid blocks are known, until somebody changes a gradient."""
        self.partials = partials

    def _known_partials(self, chosen: set[int]) -> Array | None:
        """The noted sums of squares, if they are those of the chosen slots as they are now."""
        if self.partials is None or self._seen != self._versions() or len(chosen) != self.live:
            return None
        return self.partials

    def _versions(self) -> list[int]:
        return [p.home._version if p.leaf_grad_is_home() else -1 for p in self.placements]

    def remember(self) -> None:
        """Gradients are final: what is known of them holds as long as their versions stay."""
        self._seen = self._versions()

    def block_partials(self, chosen: set[int], norm_type: float) -> Array:
        """Partial sums of |g| ** norm_type (maxima for inf) over grid blocks, float64, of all ranks.

        Args:
            chosen: indices of the slots that count.
        """
        if norm_type == 2 and (known := self._known_partials(chosen)) is not None:
            return known
        backend = of(self.flat)
        begin, end = share(self.layout.size, self.rank, self.ranks)
        part = self.flat[begin:end]
        live = [p for p in self.placements if p.slot.index in chosen and p.leaf_grad_is_home()]
        if len(live) < len(self.placements):
            part = self._masked(begin, end, live)
        counts = [size // GRID for size in share_sizes(self.layout.size, self.ranks)]
        return self.gather(backend.kernels.norm_blocks(part, norm_type, GRID), counts)

    def _masked(self, begin: int, end: int, live: list[Placement]) -> Array:
        """This rank's share with everything outside of the chosen slots set to zero."""
        part = of(self.flat).xp.zeros_like(self.flat[begin:end])
        for placement in live:
            low = max(begin, placement.slot.offset)
            high = min(end, placement.slot.offset + placement.slot.size)
            if low < high:
                part[low - begin:high - begin] = self.flat[low:high]
        return part


class Placement:
    """One parameter's tie to its slot.

    Attributes:
        home: the gradient as a tensor whose memory is the slot; it stays the same object.
        filled: the slot holds a gradient of the current round.
        closed: the slot is being reduced and must not be written; what comes is kept in `late`.
        read_only: why the parameter itself must not be written, or None.
    """

    __slots__ = ("_leaf", "closed", "filled", "group", "home", "late", "read_only", "slot")

    def __init__(self, group: Group, slot: Slot, home: Any, leaf: Callable[[], Any]) -> None:
        self.group = group
        self.slot = slot
        self.home = home
        self.filled = self.closed = False
        self.late: Array | None = None
        self.read_only: str | None = None
        self._leaf = leaf
        group.placements.append(self)

    @property
    def leaf(self) -> Any:
        """The parameter, or None when it is gone."""
        return self._leaf()

    def leaf_grad_is_home(self) -> bool:
        """Whether the parameter's `.grad` is there, in its slot."""
        leaf = self._leaf()
        return leaf is not None and leaf._grad is self.home

    def accumulate(self, leaf: Any, g: Array) -> None:
        """Add one backward's gradient to the slot; the first one is copied in."""
        group = self.group
        if self.closed:
            self.late = g.copy() if self.late is None else self.late + g
            return
        if group.state is State.REDUCED:
            group.begin_round()
        elif group.state is State.EMPTY:
            group.state = State.LOCAL
        target = self.home.array
        before = leaf._grad
        if before is None or (before is self.home and not self.filled):
            target[...] = g
        elif before is self.home:
            target += g
        else:  # a gradient from outside of the slot, such as one that belongs to a graph
            target[...] = before.array + g
        self.hold()
        self.home.bump()

    def hold(self) -> None:
        """The slot now is the parameter's `.grad`."""
        leaf = self._leaf()
        if leaf._grad is not self.home:
            self.group.live += 1
            leaf._grad = self.home
        self.filled = True

    def assign(self, leaf: Any, value: Any) -> None:
        """`p.grad = value`: None empties the slot, a tensor is copied into it."""
        group = self.group
        if value is None:
            if leaf._grad is self.home:
                group.live -= 1
                if not group.live:
                    group.state = State.EMPTY
            leaf._grad = None
            self.filled = False
            return
        if value is not self.home:
            self.home.array[...] = value.array
        self.hold()
        if group.state is State.EMPTY:
            group.state = State.LOCAL

    def refuse_rebinding(self, leaf: Any) -> None:
        """`p.data = ...` would leave the flat memory."""
        raise RuntimeError(f"parameter {self.slot.name!r} (shape {tuple(leaf.shape)}) belongs to {self.group.label}: "
                           "its memory cannot be rebound through .data; write into it instead (p.data.copy_(...))")
