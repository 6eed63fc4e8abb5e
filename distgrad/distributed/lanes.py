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
from typing import Any

from ..backend import of
from ..comm import Communicator, Progress, Work
from ..comm.lanes import Lanes
from ..flat import GRID, Group, share
from .bucket import Bucket
from .memory import FlatMemory

__all__ = ["LaneExchange"]

_FILLED, _SUMMED, _DONE = 0, 1, 2  # columns of the counters: how many buckets a rank has brought so far


class LaneExchange:
    """Every node sums in its memory, and its ranks carry the sums to the other nodes, each its part of a bucket."""

    def __init__(self, groups: Sequence[Group], lanes: Lanes, flats: FlatMemory) -> None:
        self.lanes = lanes
        self.memory = lanes.memory
        self.rank, self.size = self.memory.comm.rank, self.memory.comm.size
        self.everyone = dict(zip(groups, flats.everyone, strict=True))
        self.partials = dict(zip(groups, flats.partials, strict=True))
        self.sums = dict(zip(groups, flats.sums, strict=True))
        self.carrier = None if lanes.wire is None else _Carrier(lanes, lanes.wire)
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
        self.memory.raise_counter(_FILLED, self.filled)
        self.progress()

    def progress(self) -> None:
        """Take every bucket one stage further that can go on without waiting."""
        memory = self.memory
        while self.to_sum and memory.reached(_FILLED, self.summed + 1):
            bucket = self.to_sum.popleft()
            self._sum(bucket)
            self.summed += 1
            memory.raise_counter(_SUMMED, self.summed)
            if self.carrier is None:
                memory.raise_counter(_DONE, self.summed)
            else:
                self.to_carry.append(bucket)
        while self.carrier is not None and self.to_carry \
                and memory.reached(_SUMMED, self.handed + 1, slice(*self.lanes.fellows)):
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

    def _carry(self, carrier: _Carrier, bucket: Bucket) -> Work:
        begin, end = self._part(bucket)
        sums, means, partials = (of_ranks[bucket.group][self.rank] for of_ranks in
                                 (self.sums, self.everyone, self.partials))
        return carrier.submit(bucket, sums[begin:end], means[begin:end], partials[begin // GRID:end // GRID],
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
        self.memory.raise_counter(_DONE, self.done)

    def finish(self) -> None:
        """Return when the means of every bucket that was launched are in this rank's memory."""
        memory, count = self.memory, self.filled
        memory.wait(_FILLED, count, f"the reduction of {count - self.summed} bucket(s) of gradients", self.progress)
        self.progress()
        memory.wait(_SUMMED, count, "the sums over the node's ranks", self.progress)
        self.progress()
        while self.carried:
            self._write()
        memory.wait(_DONE, count, "the means from the other nodes", lambda: None)
        for group, partials in self.partials.items():
            group.note_partials(partials[self.rank])

    def divide(self, total: float) -> None:
        """Each part was divided in its lane."""

    def close(self) -> None:
        """End the thread and give the communicators back; collective."""
        if self.carrier is not None:
            self.carrier.close()
        self.lanes.close()


class _Carrier:
    """What the transporting thread does: one part of a bucket after the other, in the order of launching."""

    def __init__(self, lanes: Lanes, wire: Communicator) -> None:
        self.lanes = lanes
        self.wire = wire
        self.thread = Progress(wire)
        self.scratch: dict[Any, Any] = {}
        self.kept: dict[Bucket, Any] = {}  # undivided sums of weighted backwards
        self.before = 0.0
        self.met = False
        self.weighted = False
        self.divisor = 1.0

    def begin(self, before: float) -> None:
        """An exchange begins; nothing of an earlier one is on its way."""
        self.before = before
        self.met = False

    def submit(self, bucket: Bucket, sums: Any, means: Any, partial: Any, weights: list[float]) -> Work:
        """Queue the exchange of one part; `weights` are those of this node's ranks."""
        return self.thread.submit(self._exchange, bucket, sums, means, partial, weights)

    def _exchange(self, bucket: Bucket, sums: Any, means: Any, partial: Any, weights: list[float]) -> None:
        """The nodes' `sums`, added in order and divided once, become `means`, and their squares' sums `partial`."""
        if not self.met:
            self._meet(weights)
            self.met = True
        if not sums.size:
            return
        wire, backend = self.wire, of(sums)
        cuts = [share(sums.size, node, wire.size) for node in range(wire.size)]
        counts = [high - low for low, high in cuts]
        mine = counts[wire.rank]
        parts = self._room(backend.xp, "parts", sums.dtype, mine * wire.size)
        mean = self._room(backend.xp, "mean", means.dtype, mine)
        squares = self._room(backend.xp, "squares", partial.dtype, mine // GRID)
        kept = None
        if self.weighted:
            kept = self.kept.get(bucket)
            if kept is None:
                kept = self.kept[bucket] = backend.xp.empty(mine, sums.dtype)
        # Unchecked: `_meet` has compared the backwards, and the buckets are those of one verified model.
        wire.alltoallv(sums, counts, parts, [mine] * wire.size, checked=False)
        backend.kernels.mean_of_ranks(list(parts.reshape(wire.size, mine)), [squares], GRID, self.divisor, kept,
                                      self.before > 0, [mean])
        wire.allgatherv(mean, means, counts, checked=False)
        wire.allgatherv(squares, partial, [count // GRID for count in counts], checked=False)

    def _meet(self, weights: list[float]) -> None:
        """One short message a backward: all ranks' weights, from which the divisor follows (NaN: unweighted)."""
        found: dict[int, float] = {}
        messages = self.wire.allgather_bytes(struct.pack(f"{len(weights)}d", *weights))
        for ranks, message in zip(self.lanes.nodes, messages, strict=True):
            found.update(zip(ranks, struct.unpack(f"{len(ranks)}d", message), strict=True))
        plain = [math.isnan(weight) for weight in found.values()]
        # Where kinds differ, any divisor will do: the reducer finds it and raises.
        self.weighted = not any(plain)
        self.divisor = float(len(found))
        if self.weighted:
            total = self.before
            for rank in sorted(found):
                total += found[rank]
            self.divisor = total or 1.0

    def _room(self, xp: Any, use: str, dtype: Any, count: int) -> Any:
        room = self.scratch.get((use, dtype))
        if room is None or room.size < count:
            room = self.scratch[use, dtype] = xp.empty(count, dtype)
        return room[:count]

    def close(self) -> None:
        """End the thread, after what was submitted."""
        self.thread.close()
