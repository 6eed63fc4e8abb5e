"""How gradients become their mean over several nodes: summed in each node's memory, then carried in lanes.

The main thread does the node's part, at hook polls and when backward ends; one thread transports, with
blocking calls. What crosses the network are sums over a node, each byte once. The bits are those of
((g0 + g1) + (g2 + g3)) / 4, grouped by node, whatever the buckets, the lanes and the timing.

[Note: stages of a bucket] Filled by all ranks of the node -> summed, each rank its piece of its lane's
part -> carried, by the lane's first rank -> written to all ranks of the node. A counter for each stage
tells the node's ranks how far the others are. The sums, and then the means, lie in the gradients of
the rank that carries them (float16: the sums beside them, in float32).
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Sequence

from ..backend import of
from ..comm import Work
from ..comm.lanes import Lanes
from ..errors import RankFailedError, rank_prefix
from ..flat import GRID, Group, share
from .bucket import Bucket, Hook
from .carrier import Carrier, HookCarrier
from .counters import DONE, FILLED, SUMMED
from .memory import FlatMemory

__all__ = ["LaneExchange"]

class LaneExchange:
    """Every node sums in its memory, and its ranks carry the sums to the other nodes, each its part of a bucket."""

    def __init__(self, groups: Sequence[Group], lanes: Lanes, flats: FlatMemory, hook: Hook | None = None) -> None:
        self.lanes = lanes
        self.memory = lanes.memory
        self.rank, self.size = self.memory.comm.rank, self.memory.comm.size
        self.everyone = dict(zip(groups, flats.everyone, strict=True))
        self.partials = dict(zip(groups, flats.partials, strict=True))
        self.sums = dict(zip(groups, flats.sums, strict=True))
        self.hook = hook
        self.carrier = None if lanes.wire is None else Carrier(lanes, lanes.wire) if hook is None else \
            HookCarrier(lanes, lanes.wire, hook)
        self.to_sum: deque[Bucket] = deque()
        self.to_carry: deque[Bucket] = deque()
        self.carried: deque[tuple[Bucket, Work]] = deque()
        self.filled = self.summed = self.handed = self.done = 0

    def begin(self, weight: float | None, before: float) -> None:
        """An exchange begins; `weight` is this rank's in a weighted one, `before` that of what was reduced already."""
        self.memory.leave(math.nan if weight is None else weight)
        if self.carrier is not None:
            self.carrier.begin(before)

    def launch(self, bucket: Bucket) -> None:
        """Tell the node that this rank's part of the bucket is there."""
        self.to_sum.append(bucket)
        self.filled += 1
        self.memory.raise_counter(FILLED, self.filled)
        self.progress()

    def progress(self) -> None:
        """Take every bucket one stage further that can go on without waiting."""
        memory = self.memory
        while self.to_sum and memory.reached(FILLED, self.summed + 1):
            bucket = self.to_sum.popleft()
            self._sum(bucket)
            self.summed += 1
            memory.raise_counter(SUMMED, self.summed)
            if self.carrier is None:
                memory.raise_counter(DONE, self.summed)
            else:
                self.to_carry.append(bucket)
        while self.carrier is not None and self.to_carry \
                and memory.reached(SUMMED, self.handed + 1, slice(*self.lanes.fellows)):
            bucket = self.to_carry.popleft()
            self.handed += 1
            self.carried.append((bucket, self._carry(self.carrier, bucket)))
        while self.carried and self.carried[0][1].done:
            self._write()

    def _part(self, bucket: Bucket) -> tuple[int, int]:
        """The lane's part of a bucket, as a range of the flat memory."""
        begin, end = share(bucket.end - bucket.begin, self.lanes.lane, self.lanes.count)
        return bucket.begin + begin, bucket.begin + end

    def _sum(self, bucket: Bucket) -> None:
        """Sum this rank's piece of its lane's part over the node, into the memory of the rank that carries it."""
        first, last = self.lanes.fellows
        low, high = self._part(bucket)
        begin, end = share(high - low, self.rank - first, last - first)
        begin, end = low + begin, low + end
        everyone, sums = self.everyone[bucket.group], self.sums[bucket.group][first]
        if begin < end and (self.size > 1 or sums is not everyone[first]):
            of(sums).kernels.sum_of_ranks([flat[begin:end] for flat in everyone], sums[begin:end], GRID)

    def _carry(self, carrier: Carrier, bucket: Bucket) -> Work:
        begin, end = self._part(bucket)
        sums, means, partials = (of_ranks[bucket.group][self.rank] for of_ranks in
                                 (self.sums, self.everyone, self.partials))
        return carrier.submit(bucket, begin, sums[begin:end], means[begin:end], partials[begin // GRID:end // GRID],
                              self.memory.values())

    def _write(self) -> None:
        """Wait until the oldest bucket has been carried, and write its means to all ranks of the node."""
        bucket, work = self.carried[0]
        work.wait()
        self.carried.popleft()
        begin, end = self._part(bucket)
        blocks = slice(begin // GRID, end // GRID)
        flats, partials = self.everyone[bucket.group], self.partials[bucket.group]
        for rank in range(self.size):
            if rank != self.rank:
                flats[rank][begin:end] = flats[self.rank][begin:end]
                partials[rank][blocks] = partials[self.rank][blocks]
        self.done += 1
        self.memory.raise_counter(DONE, self.done)

    def finish(self) -> None:
        """Return when the means of every bucket that was launched are in this rank's memory.

        Raises:
            RankFailedError: the comm hook raised on another rank. What it raised on this one is raised as it is.
        """
        memory, count = self.memory, self.filled
        memory.wait(FILLED, count, f"the reduction of {count - self.summed} bucket(s) of gradients", self.progress)
        self.progress()
        memory.wait(SUMMED, count, "the sums over the node's ranks", self.progress)
        self.progress()
        while self.carried:
            self._write()
        memory.wait(DONE, count, "the means from the other nodes")
        if self.hook is not None:
            self._raise_together()
        for group, partials in self.partials.items():
            group.note_partials(partials[self.rank])

    def _raise_together(self) -> None:
        """Every lane has a rank on every node, so what went wrong in any of them is known on the node: tell all."""
        verdict = None if self.carrier is None else self.carrier.finish()
        told = b"" if verdict is None else struct.pack("<q", verdict.rank) + verdict.text.encode()
        messages = self.memory.comm.allgather_bytes(told)
        if verdict is not None:
            raise verdict.error
        for message in filter(None, messages):
            raise RankFailedError(rank_prefix() + message[8:].decode(), *struct.unpack_from("<q", message))

    def divide(self, total: float) -> None:
        """Each part was divided in its lane."""

    def close(self) -> None:
        """End the thread and give the communicators back; collective."""
        if self.carrier is not None:
            self.carrier.close()
        self.lanes.close()

