"""How a bucket's gradients become their mean: over the wire, or in memory that the node's ranks share.

Both give the same bits: sums in rank order, divided once. `lanes` joins the two for several nodes, with the same verbs.

    begin(weight) -> launch(bucket) ... progress() ... finish() -> divide(total)

A weighted exchange keeps its undivided sums, so that the next one before zero_grad can join them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..backend import of
from ..comm import Communicator, Progress, Work
from ..comm.shared import NodeMemory
from ..flat import GRID, Group, share
from .bucket import Bucket
from .counters import DONE, FILLED
from .hooks import mean_hook
from .peers import PeerGradients, Rounds
from .sums import Sums

__all__ = ["Exchange", "NodeExchange", "WireExchange"]


class Exchange(Protocol):
    """The verbs of an exchange."""

    def begin(self, weight: float | None, before: float) -> None:
        """A backward begins; `weight` is this rank's in a weighted one, `before` that of what was reduced already."""

    def launch(self, bucket: Bucket) -> None:
        """This rank's part of a bucket is there; all ranks launch in one order. Then comes `progress` or `finish`."""

    def progress(self) -> None:
        """Do what can be done without waiting; called whenever a gradient arrives."""

    def finish(self) -> None:
        """Return when the groups' memory holds the mean of every bucket that was launched."""

    def divide(self, total: float) -> None:
        """After a weighted exchange, the sum of all weights is known."""

    def close(self) -> None:
        """Give communicators and threads back; collective."""


class WireExchange:
    """Buckets travel in one thread, on a communicator of their own."""

    def __init__(self, groups: Sequence[Group], comm: Communicator) -> None:
        self.comm = comm.dup()
        self.groups = groups
        self.wire = Progress(self.comm)
        self.received = {group: of(group.flat).xp.empty_like(group.flat) for group in groups}
        self.sums = {group: Sums(group) for group in groups}
        self.works: list[tuple[Bucket, Work]] = []
        self.weighted = self.more = False

    def begin(self, weight: float | None, before: float) -> None:
        """An exchange begins; `weight` is this rank's in a weighted one, `before` that of what was reduced already."""
        self.weighted, self.more = weight is not None, before > 0

    def launch(self, bucket: Bucket) -> None:
        """Hand a closed bucket to the thread."""
        bucket.recv = self.received[bucket.group][bucket.begin:bucket.end]
        bucket.wire = self.wire
        bucket.wants_sum = self.weighted
        sums = self.sums[bucket.group]
        if self.weighted and sums.wider:
            part = sums.part(bucket)
            self.works.append((bucket, bucket.submit(self.comm.allreduce, part, part)))
        else:
            self.works.append((bucket, mean_hook(bucket, self.comm)))

    def progress(self) -> None:
        """The thread needs no help."""

    def finish(self) -> None:
        """Wait for all buckets; each group's memory then holds the mean (weighted: what `divide` needs)."""
        works, self.works = self.works, []
        for _, work in works:
            work.wait()
        for bucket, _ in works:
            bucket.send[...] = bucket.recv

    def divide(self, total: float) -> None:
        """After a weighted exchange: the sums so far over the sum of all weights."""
        for sums in self.sums.values():
            sums.divide(total, self.more)

    def close(self) -> None:
        """End the thread and give the communicator back; collective."""
        self.wire.close()
        self.comm.close()


class NodeExchange:
    """Every rank reduces its own share of each bucket, where all ranks' gradients lie, and writes the mean back.

    A rank raises a counter when it has filled a bucket; when all have, each takes its share: sums the
    ranks' gradients in rank order, divides once, takes the sum of squares of each grid block in the same
    pass, and writes the mean to every rank's memory, or for sharded gradients to its own alone. The main
    thread does this at hook polls and at the end.
    """

    def __init__(self, groups: Sequence[Group], memory: NodeMemory, everyone: Sequence[Sequence[Any]],
                 partials: Sequence[Sequence[Any]]) -> None:
        """
        Args:
            everyone: for each group the flat gradients of all ranks.
            partials: for each group the sums of squares of the grid blocks, one copy a rank.
        """
        self.memory = memory
        self.rank, self.size = memory.comm.rank, memory.comm.size
        self.everyone = dict(zip(groups, everyone, strict=True))
        self.partials = dict(zip(groups, partials, strict=True))
        self.rounds = Rounds(memory)
        self.plans: dict[tuple[Bucket, bool], Callable[[int, float, bool, bool, bool], int]] = {}
        self.queue: deque[Bucket] = deque()
        self.filled = self.done = 0
        self.weighted, self.before, self.divisor = False, 0.0, 0.0

    def shard(self, group: Group) -> None:
        """From now on each mean of this group is written once, by its owner. Collective; no backward may run."""
        group.share_among(self.rank, self.size, group.layout.buckets)
        group.peers = PeerGradients(self.rounds, self.everyone[group], group)
        self.plans.clear()

    def begin(self, weight: float | None, before: float) -> None:
        """An exchange begins; `weight` is this rank's in a weighted one, `before` that of what was reduced already."""
        self.weighted, self.before, self.divisor = weight is not None, before, 0.0
        if weight is not None:
            self.memory.leave(weight)

    def launch(self, bucket: Bucket) -> None:
        """Tell the node that this rank's part of the bucket is there."""
        self.queue.append(bucket)
        self.filled += 1
        self.memory.raise_counter(FILLED, self.filled)

    def progress(self) -> None:
        """Reduce this rank's share of every bucket that all ranks have filled."""
        while self.queue and self.memory.reached(FILLED, self.done + 1):
            self._reduce_next(False)

    def _reduce_next(self, wait: bool) -> bool:
        """Reduce this rank's share of the oldest bucket; has every rank done so with the last one?"""
        bucket = self.queue[0]
        number = self.done + 1
        plan = self.plans.get((bucket, self.weighted)) or self._plan(bucket)
        if wait and self.weighted and not self.divisor:  # the others' weights are there when their gradients are
            self._wait_for_filled()
        state = plan(number, self.divisor or self._find_divisor(), self.before > 0, wait, wait and len(self.queue) == 1)
        if not state:
            self._wait_for_filled()
            return self._reduce_next(False)
        self.done = number
        self.queue.popleft()
        return state == 2

    def _wait_for_filled(self) -> None:
        self.memory.wait(FILLED, self.done + 1, f"the reduction of {len(self.queue)} bucket(s) of gradients")

    def _find_divisor(self) -> float:
        """The number of ranks, or the sum of all weights so far, which all ranks have left by now."""
        divisor = float(self.size)
        if self.weighted:
            divisor = self.before
            for weight in self.memory.values():
                divisor += weight
        self.divisor = divisor or 1.0
        return self.divisor

    def _plan(self, bucket: Bucket) -> Callable[[int, float, bool, bool, bool], int]:
        """How this rank's share of a bucket is reduced, with all arguments at hand."""
        group = bucket.group
        begin, end = share(bucket.end - bucket.begin, self.rank, self.size)
        part, blocks = slice(bucket.begin + begin, bucket.begin + end), \
            slice((bucket.begin + begin) // GRID, (bucket.begin + end) // GRID)
        flats = [flat[part] for flat in self.everyone[group]]
        backend = of(flats[0])
        plan: Callable[[int, float, bool, bool, bool], int] = backend.kernels.share_plan(
            self.memory.rows, self.rank, (FILLED, DONE), self.memory.patience, flats,
            [partial[blocks] for partial in self.partials[group]], GRID,
            backend.xp.empty_like(flats[0]) if self.weighted else None,
            None if group.peers is None else [flats[self.rank]])
        self.plans[bucket, self.weighted] = plan
        return plan

    def finish(self) -> None:
        """Return when every rank has reduced its share of every bucket that was launched."""
        memory = self.memory
        all_done = False
        while self.queue:
            all_done = self._reduce_next(True)
        if not all_done:
            memory.wait(DONE, self.filled, "the end of the reduction")
        for group, partials in self.partials.items():
            group.note_partials(partials[self.rank])

    def divide(self, total: float) -> None:
        """Each share was divided when it was reduced."""

    def close(self) -> None:
        """The memory goes when nobody holds a gradient in it any more."""
