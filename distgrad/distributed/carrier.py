"""What the transporting thread of a lane does: one part of a bucket after the other, in the order of launching.

The nodes' sums go in, the means of all ranks come out, with the sums of squares of their grid blocks. It
knows neither the node's ranks nor their stages; `lanes` hands it memory.
"""

from __future__ import annotations

import math
import struct
from functools import partial
from typing import Any

from ..backend import of
from ..comm import Communicator, Progress, Work
from ..comm.lanes import Lanes
from ..flat import GRID, share
from .bucket import Bucket, Hook
from .turns import Parcel, Turns, Verdict, total_weight

__all__ = ["Carrier", "HookCarrier"]


class Carrier:
    """Carries sums as they are: each node adds and divides its piece of the part, and all gather the pieces."""

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

    def submit(self, bucket: Bucket, begin: int, sums: Any, means: Any, squares: Any, weights: list[float]) -> Work:
        """Queue the exchange of one part.

        Args:
            begin: where the part begins in the flat memory.
            sums: this node's, undivided.
            means: where the means of all ranks go; may be the same memory.
            squares: where the sums of squares of the means' grid blocks go.
            weights: those of this node's ranks.
        """
        return self.thread.submit(self._exchange, bucket, sums, means, squares, weights)

    def finish(self) -> Verdict | None:
        """What went wrong on the wire without having been raised; nothing, for what goes wrong here is raised."""
        return None

    def _exchange(self, bucket: Bucket, sums: Any, means: Any, squares: Any, weights: list[float]) -> None:
        """The nodes' `sums`, added in order and divided once, become `means`."""
        if not self.met:
            self._learn(self.wire.allgather_bytes(_pack(weights)))
            self.met = True
        if not sums.size:
            return
        wire, backend = self.wire, of(sums)
        cuts = [share(sums.size, node, wire.size) for node in range(wire.size)]
        counts = [high - low for low, high in cuts]
        mine = counts[wire.rank]
        parts = self._room(backend.xp, "parts", sums.dtype, mine * wire.size)
        mean = self._room(backend.xp, "mean", means.dtype, mine)
        blocks = self._room(backend.xp, "squares", squares.dtype, mine // GRID)
        kept = self._kept(bucket, sums, mine)
        # Unchecked: the weights' message has compared the backwards, and the buckets are those of one verified model.
        wire.alltoallv(sums, counts, parts, [mine] * wire.size, checked=False)
        backend.kernels.mean_of_ranks(list(parts.reshape(wire.size, mine)), [blocks], GRID, self.divisor, kept,
                                      self.before > 0, [mean])
        wire.allgatherv(mean, means, counts, checked=False)
        wire.allgatherv(blocks, squares, [count // GRID for count in counts], checked=False)

    def _learn(self, messages: list[bytes]) -> float:
        """All nodes' weights (NaN: unweighted), from which the divisor follows; what this backward weighs."""
        found: dict[int, float] = {}
        for ranks, message in zip(self.lanes.nodes, messages, strict=True):
            found.update(zip(ranks, struct.unpack(f"{len(ranks)}d", message), strict=True))
        weights = [found[rank] for rank in sorted(found)]
        # Where kinds differ, any divisor will do: the reducer finds it and raises.
        self.weighted = not any(map(math.isnan, weights))
        self.divisor = float(len(weights))
        if self.weighted:
            total = self.before
            for weight in weights:
                total += weight
            self.divisor = total or 1.0
        return total_weight(weights)

    def _kept(self, bucket: Bucket, sums: Any, count: int) -> Any:
        """In a weighted backward, where the undivided sums of this bucket are kept; else None."""
        if not self.weighted:
            return None
        kept = self.kept.get(bucket)
        if kept is None:
            kept = self.kept[bucket] = of(sums).xp.empty(count, sums.dtype)
        return kept

    def _room(self, xp: Any, use: str, dtype: Any, count: int) -> Any:
        room = self.scratch.get((use, dtype))
        if room is None or room.size < count:
            room = self.scratch[use, dtype] = xp.empty(count, dtype)
        return room[:count]

    def close(self) -> None:
        """End the thread, after what was submitted."""
        self.thread.close()


class HookCarrier(Carrier):
    """Carries what a comm hook makes of the sums: it gives their mean over the nodes, on every node alike."""

    def __init__(self, lanes: Lanes, wire: Communicator, hook: Hook) -> None:
        super().__init__(lanes, wire)
        self.turns = Turns(self.thread, hook, self._learn)
        self.parcels: dict[Bucket, Parcel] = {}

    def submit(self, bucket: Bucket, begin: int, sums: Any, means: Any, squares: Any, weights: list[float]) -> Work:
        """Give one part to the hook; the means follow from what it returns."""
        if not sums.size:
            return self.thread.submit(_nothing)
        parcel = self.parcels.get(bucket)
        if parcel is None:
            parcel = self.parcels[bucket] = Parcel(bucket, begin, sums, of(sums).xp.empty_like(sums))
        greeting = b"" if self.met else _pack(weights)
        self.met = True
        return self.turns.take(parcel, greeting, partial(self._spread, bucket, parcel.recv, means, squares))

    def finish(self) -> Verdict | None:
        """Wait until the hook is through with all parts, on all nodes; what it raised on one of them."""
        return self.turns.finish()

    def _spread(self, bucket: Bucket, mean: Any, means: Any, squares: Any) -> None:
        """The nodes' mean, times their number, is the sum over all ranks, and that is divided once."""
        with of(mean).xp.errstate(all="ignore"):  # an overflow is found by whoever looks at the gradients
            mean *= self.wire.size
        of(mean).kernels.mean_of_ranks([mean], [squares], GRID, self.divisor, self._kept(bucket, mean, mean.size),
                                       self.before > 0, [means])


def _pack(weights: list[float]) -> bytes:
    return struct.pack(f"{len(weights)}d", *weights)


def _nothing() -> None:
    """A lane may have no part in a short bucket."""
