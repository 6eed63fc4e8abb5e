"""The reducer of one model: turns its ranks' gradients into their mean while backward runs.

It has no flags: the engine says which leaves a backward reaches, a bucket launches when those in it
have arrived, and at the end what is missing counts as zero. Every rank launches every bucket in the
same order, so branches may differ between ranks. `session` orders several models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from ..backend import of
from ..comm import Communicator
from ..flat import Group, Placement, State
from ..graph.engine import Run
from .bucket import Bucket, BucketState
from .exchange import NodeExchange, WireExchange

__all__ = ["Reducer"]

_created = count().__next__


class Reducer:
    """Buckets of one model's groups, how they are exchanged, and a communicator for short messages.

    Attributes:
        index: the order of creation, the same on every rank, which orders models on the wire.
        sync: False inside `no_sync()`: gradients stay this rank's own.
    """

    def __init__(self, groups: Sequence[Group], comm: Communicator, exchange: WireExchange | NodeExchange, *,
                 overlap: bool, label: str) -> None:
        self.index = _created()
        self.label = label
        self.groups = list(groups)
        self.exchange = exchange
        self.sync = True
        self.overlap = overlap
        self.control = comm.dup()
        self.buckets: list[Bucket] = []
        self._of: dict[Placement, list[Bucket]] = {}
        for group in self.groups:
            first = len(self.buckets)
            for begin, end in group.layout.buckets:
                self.buckets.append(Bucket(len(self.buckets), group, begin, end))
            for placement in group.placements:
                touched = [self.buckets[first + i] for i in group.layout.buckets_of(placement.slot)]
                self._of[placement] = touched
                for bucket in touched:
                    bucket.placements.append(placement)
        self.placements = [p for group in self.groups for p in group.placements]
        self._next = 0

    def begin(self, run: Run) -> None:
        """A backward that reduces begins: count what each bucket will get.

        Raises:
            RuntimeError: it was asked to build a graph of itself, which a reduction cannot be part of.
        """
        if run.create_graph:
            raise RuntimeError(f"{self.label}: backward(create_graph=True) cannot reduce gradients over ranks; run it "
                               "inside no_sync(), or use autograd.grad")
        if self._next and self.buckets[0].state is BucketState.CLOSED:  # an earlier backward raised half-way
            self.launch_rest()
            self.exchange.finish()
        self._next = 0
        for bucket in self.buckets:
            bucket.reset()
            bucket.expect(sum(self._reached(p, run) for p in bucket.placements))
        for group in self.groups:
            if group.state is State.REDUCED:
                group.begin_round()

    @staticmethod
    def _reached(placement: Placement, run: Run) -> bool:
        leaf = placement.leaf
        return leaf in run.leaves and (run.accumulate is None or leaf in run.accumulate)

    def arrived(self, placement: Placement) -> None:
        """A parameter's gradient is in its slot."""
        for bucket in self._of[placement]:
            bucket.mark_ready()

    def advance(self) -> bool:
        """Launch the buckets that are ready, strictly in order; True when all are on their way."""
        while self._next < len(self.buckets) and self.buckets[self._next].ready:
            self._launch_next()
        self.exchange.progress()
        return self._next == len(self.buckets)

    def launch_rest(self) -> None:
        """At the end of backward nothing more will come."""
        while self._next < len(self.buckets):
            self._launch_next()

    def _launch_next(self) -> None:
        bucket = self.buckets[self._next]
        self._next += 1
        bucket.close()
        self.exchange.launch(bucket)

    def finish(self) -> None:
        """Wait for all buckets, learn which parameters any rank used, and give them their mean."""
        self.exchange.finish()
        used, late = self._agree()
        for group in self.groups:
            group.end_round()
        for bucket in self.buckets:
            bucket.reset()
        for placement, is_used, is_late in zip(self.placements, used, late, strict=True):
            if is_late:
                self._reduce_late(placement)
            if is_used or is_late:
                placement.hold()
            placement.filled = False
        for group in self.groups:
            if not group.live:
                group.state = State.EMPTY
            group.remember()

    def _agree(self) -> tuple[list[bool], list[bool]]:
        """Which parameters have a gradient, and which a late one, on any rank."""
        mine = bytes(p.filled | (p.late is not None) << 1 for p in self.placements)
        found = [0] * len(mine)
        for theirs in self.control.allgather_bytes(mine):
            found = [a | b for a, b in zip(found, theirs, strict=True)]
        return [bool(bits & 1) for bits in found], [bool(bits & 2) for bits in found]

    def _reduce_late(self, placement: Placement) -> None:
        """A gradient that came after its bucket had left (a backward inside a hook): reduced by itself."""
        target = placement.home.array
        xp = of(target).xp
        send = xp.zeros(target.shape, target.dtype) if placement.late is None else xp.ascontiguousarray(placement.late)
        recv = xp.empty_like(send)
        self.control.allreduce(send, recv, mean=True)
        target += recv
        placement.group.partials = None
        placement.late = None

    def gather(self, part: Any) -> Any:
        """All ranks' float64 partial sums, in rank order."""
        sizes = [int.from_bytes(size, "little")
                 for size in self.control.allgather_bytes(int(part.size).to_bytes(8, "little"))]
        whole = of(part).xp.empty(sum(sizes), part.dtype)
        self.control.allgatherv(of(part).xp.ascontiguousarray(part), whole, sizes)
        return whole

    def close(self) -> None:
        """Give back communicators and thread; collective."""
        self.exchange.close()
        self.control.close()
