"""Group: one flat gradient buffer, the state of what is in it, and what is known of it without a look.

[Note: pending factor] A clip of everything in a group is a factor that is kept, and applied where the
gradient is read next: by the optimizer, within its one pass. Whoever else asks for a gradient has it
applied first. Once a gradient was handed out, somebody may look at its memory at any time: then nothing
is kept back until the gradients are forgotten.

[Note: sharded gradients] Under a sharded optimizer each mean is written once, where its owner's gradients
lie; the rest of a rank's buffer is left over from its own backward. `p.grad` then is a copy, put
together from the owners' parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._typing import Array
from ..backend import of
from .factor import DeviceFactor, Factor, may_wait, multiply_
from .layout import GRID, Layout, Range, share
from .state import Peers, State

if TYPE_CHECKING:
    from .placement import Placement

__all__ = ["Group", "not_finite"]


@dataclass(eq=False)
class Group:
    """One flat gradient buffer and what is known of it.

    Attributes:
        layout: where the slots are.
        flat: the gradients, `layout.size` elements.
        state: see State; single-process groups go from EMPTY to REDUCED at once.
        rank, ranks: who shares the work of one pass over the buffer.
        owned: for each rank the ranges that it owns when gradients or optimizer state are sharded.
        gather: (this rank's array, how long each rank's is) -> all ranks' arrays in rank order.
        comm: of the ranks that share the gradients, for whoever needs collectives of their own.
        collectives: among the ranks' devices, where the gradients travel so.
        shard: makes the gradients sharded, where their memory allows it; collective.
        peers: set while gradients are sharded.
        label: what to call the owner in messages.
        factor: what gradients are still to be multiplied by, rounded to their dtype; see [Note: pending factor].
        exposed: a gradient was handed out since they were last forgotten.
        used_up: a sharded step has taken the gradients.
        mark: a fingerprint of the options of the last optimizer step, to be compared over the ranks.
    """

    layout: Layout
    flat: Array
    rank: int = 0
    ranks: int = 1
    owned: list[list[Range]] = field(default_factory=list)
    gather: Callable[[Array, list[int]], Array] = lambda part, counts: part
    comm: Any = None
    collectives: Any = None
    shard: Callable[[], None] | None = None
    peers: Peers | None = None
    label: str = "the model"
    state: State = State.EMPTY
    placements: list[Placement] = field(default_factory=list)
    live: int = 0  # parameters whose .grad is there
    factor: Factor = 1.0
    exposed: bool = False
    used_up: bool = False
    mark: int = 0
    given_up: set[int] = field(default_factory=set)  # slots that were forgotten or set to zero since the last backward
    partials: Array | None = None  # sums of squares of the grid blocks, if the reduction took them
    _seen: list[int] = field(default_factory=list)
    sums_elsewhere: bool = False  # whoever reduces keeps what was reduced before (weighted means)
    stash: list[Array] | None = None  # reduced gradients of earlier backwards, while another one runs

    def __post_init__(self) -> None:
        self.on_device = of(self.flat).name != "cpu"
        self.share_among(self.rank, self.ranks, [(0, self.layout.size)])

    def share_among(self, rank: int, ranks: int, cuts: Sequence[Range]) -> None:
        """Divide ownership: every cut among all ranks."""
        self.rank, self.ranks = rank, ranks
        self.owned = [[] for _ in range(ranks)]
        for low, high in cuts:
            for owner in range(ranks):
                begin, end = share(high - low, owner, ranks)
                if begin < end:
                    self.owned[owner].append((low + begin, low + end))

    @property
    def valid(self) -> list[Range]:
        """The ranges in which this rank's buffer holds the group's gradients."""
        if self.peers is not None and self.state is State.REDUCED:
            return self.owned[self.rank]
        return [(0, self.layout.size)]

    # -- rounds: from empty or reduced gradients through local ones to reduced ones

    def begin_first(self) -> None:
        """Before the first gradient since they were forgotten."""
        self._leave()
        self.state = State.LOCAL

    def begin_round(self) -> None:
        """Before a new local gradient joins a reduced one: keep the reduced part aside.

        Local slots are consumed by a reduction, so reduced and local sums never mix in one slot.
        """
        factor = self.factor
        self._leave()
        if not self.sums_elsewhere:
            if self.live < len(self.placements):  # what lies in slots that were emptied is nobody's gradient
                for placement in self.placements:
                    if not placement.leaf_grad_is_home():
                        slot = placement.slot
                        for low, high in self.valid:
                            self.flat[max(low, slot.offset):max(low, min(high, slot.offset + slot.size))] = 0
            self._apply(factor)
            self.stash = [self.flat[begin:end].copy() for begin, end in self.valid]
        for placement in self.placements:
            placement.filled = False
        self.state = State.LOCAL

    def _leave(self) -> None:
        self.factor, self.used_up = 1.0, False
        if self.peers is not None:
            self.peers.leave()

    def end_round(self) -> None:
        """The memory now holds the mean over ranks; earlier reduced gradients join it."""
        self.state = State.REDUCED
        if self.stash is not None:
            for (begin, end), before in zip(self.valid, self.stash, strict=True):
                self.flat[begin:end] += before
            self.stash = self.partials = None  # the squares were those of the new part alone
        if self.peers is not None:
            self.peers.arrive()

    def give_up_round(self) -> None:
        """A reduction failed: what was reduced before it is what there is."""
        if self.stash is None:
            return
        self.state = State.REDUCED
        for (begin, end), before in zip(self.valid, self.stash, strict=True):
            self.flat[begin:end] = before
        self.stash = self.partials = None

    def forget(self) -> None:
        """No parameter has a gradient any more."""
        self.state = State.EMPTY
        self.exposed = self.used_up = False
        self.factor = 1.0

    # -- scaling

    def scale(self, factor: Factor, chosen: Sequence[Placement]) -> None:
        """Multiply the chosen gradients by a factor that was rounded to their dtype."""
        if factor == 1:  # it would change no bit
            return
        if len(chosen) == self.live and may_wait(factor):
            self.settle()
            self.factor = factor
            if self.exposed and self.peers is None:
                self.settle()
            return
        self.change(chosen, lambda parts: multiply_(parts, factor))

    def change(self, chosen: Sequence[Placement], function: Callable[[list[Array]], object]) -> None:
        """Have a function write to the chosen gradients in place. Collective where gradients are sharded."""
        self.settle()
        with self._fenced(), self._beside():
            function(self._parts(chosen))
            for placement in chosen:
                placement.home.bump()

    def _parts(self, chosen: Sequence[Placement]) -> list[Array]:
        """The memory of the chosen gradients, as far as this rank's buffer holds them."""
        parts = []
        for slot in [placement.slot for placement in chosen]:
            for low, high in self.valid:
                begin, end = max(low, slot.offset), min(high, slot.offset + slot.size)
                if begin < end:
                    parts.append(self.flat[begin:end])
        return parts

    def _beside(self) -> AbstractContextManager[Any]:
        """Around work on the gradients: their device is the current one."""
        return of(self.flat).beside(self.flat) or nullcontext()

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        """Around writes to gradients that other ranks may be reading."""
        fence = self.peers.fence if self.peers is not None and self.state is State.REDUCED else _nothing
        fence()
        yield
        fence()

    def settle(self) -> None:
        """Apply the factor that is pending. Collective where gradients are sharded."""
        if self.factor != 1:
            with self._fenced():
                self._apply(self.factor)
                self.factor = 1.0

    def _apply(self, factor: Factor) -> None:
        """Multiply the gradients. Slots without one may hold anything finite, and what no slot covers has to stay
        zero: a factor that may be NaN leaves both alone."""
        if isinstance(factor, DeviceFactor):
            multiply_(self._parts([p for p in self.placements if p.leaf_grad_is_home()]), factor)
        else:
            multiply_([self.flat[begin:end] for begin, end in self.valid], factor)

    # -- norms

    def note_partials(self, partials: Array) -> None:
        """The sums of squares of all grid blocks are known, until somebody changes a gradient."""
        self.partials = partials

    def _known_partials(self, chosen: Sequence[Placement]) -> Array | None:
        """The noted sums of squares, if they are those of the chosen slots as they are now."""
        known = self.partials is not None and len(chosen) == self.live and self._seen == self._versions()
        return self.partials if known and not (self.exposed and self.peers is None and self._written()) else None

    def _written(self) -> bool:
        """Whether gradients that were handed out have changed since: a write through .data or numpy leaves no trace.

        It asks nobody, for a rank may have looked at its gradients alone, and answers alike on all ranks. On a device
        they may have: an answer would wait for the device, and cost the very pass that takes the sums anew.
        """
        if self.on_device:
            return True
        backend = of(self.flat)
        now = backend.kernels.norm_blocks(self.flat, 2.0, GRID)
        return not bool(backend.xp.allclose(now, self.partials, rtol=1e-6, atol=0, equal_nan=True))

    def _versions(self) -> list[int]:
        return [p.home._version for p in self.placements]

    def remember(self) -> None:
        """Gradients are final: what is known of them holds as long as their versions stay."""
        self._seen = self._versions()

    def block_partials(self, chosen: Sequence[Placement], norm_type: float) -> Array:
        """Partial sums of |g| ** norm_type (maxima for inf) over grid blocks, float64, of all ranks.

        Args:
            chosen: the slots that count, all of them with a gradient.
        """
        if norm_type == 2 and (known := self._known_partials(chosen)) is not None:
            return known
        self.settle()
        if self.on_device and self.peers is None:  # a message would wait for the device, and every rank has it all
            with self._beside():
                return self._blocks(0, self.layout.size, chosen, norm_type)
        xp = of(self.flat).xp
        parts = [self._blocks(begin, end, chosen, norm_type) for begin, end in self.owned[self.rank]]
        mine = xp.concatenate(parts) if parts else xp.empty(0)
        counts = [sum(end - begin for begin, end in ranges) // GRID for ranges in self.owned]
        return self.in_place_of_owners(self.gather(mine, counts), GRID)

    def _blocks(self, begin: int, end: int, live: Sequence[Placement], norm_type: float) -> Array:
        part = self.flat[begin:end]
        if len(live) < len(self.placements):
            part = of(self.flat).xp.zeros_like(part)
            for placement in live:
                slot = placement.slot
                low, high = max(begin, slot.offset), min(end, slot.offset + slot.size)
                if low < high:
                    part[low - begin:high - begin] = self.flat[low:high]
        return of(self.flat).kernels.norm_blocks(part, norm_type, GRID)

    def collect(self) -> Array:
        """The whole reduced gradients, from all owners, in new memory. Collective."""
        self.settle()
        xp = of(self.flat).xp
        parts = [self.flat[begin:end] for begin, end in self.owned[self.rank]]
        counts = [sum(end - begin for begin, end in ranges) for ranges in self.owned]
        return self.in_place_of_owners(self.gather(xp.concatenate(parts) if parts else self.flat[:0], counts))

    def in_place_of_owners(self, gathered: Array, unit: int = 1) -> Array:
        """What all ranks gave for their ranges, in rank order, put where it belongs in the whole.

        Args:
            unit: how many elements of the buffer one number stands for.
        """
        if all(len(ranges) <= 1 for ranges in self.owned):
            return gathered
        whole = of(gathered).xp.empty_like(gathered)
        at = 0
        for ranges in self.owned:
            for begin, end in ranges:
                count = (end - begin) // unit
                whole[begin // unit:end // unit] = gathered[at:at + count]
                at += count
        return whole


def _nothing() -> None:
    """Nobody else reads these gradients."""


def not_finite(group: Group) -> list[str]:
    """Names of the parameters in whose grid blocks a gradient is NaN or inf, the same on every rank. Collective."""
    live = [p for p in group.placements if p.leaf_grad_is_home() and p.slot.size]
    xp = of(group.flat).xp
    if not live or xp.isfinite(group.block_partials(live, 2)).all():
        return []
    finite = xp.isfinite(group.block_partials(live, math.inf))  # a square may overflow where the gradient does not
    blocks = [slice(p.slot.offset // GRID, (p.slot.offset + p.slot.size - 1) // GRID + 1) for p in live]
    return [p.slot.name for p, block in zip(live, blocks, strict=True) if not finite[block].all()]
