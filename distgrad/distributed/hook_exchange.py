"""Buckets that a comm hook carries between all ranks: each rank's own gradients go in, their mean comes out."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from ..comm import Communicator
from ..flat import Group
from .bucket import Bucket, Hook
from .exchange import WireExchange
from .turns import Parcel, Turns, total_weight

__all__ = ["HookExchange"]

_WEIGHT = struct.Struct("<d")  # NaN in a backward without weights


class HookExchange(WireExchange):
    """As WireExchange, with a hook of the user's, which may be wrong. It gives means, in weighted backwards too."""

    def __init__(self, groups: Sequence[Group], comm: Communicator, hook: Hook) -> None:
        super().__init__(groups, comm)
        self.turns = Turns(self.wire, hook, _greeted)
        self.parcels: dict[Bucket, Parcel] = {}
        self.greeting = b""

    def begin(self, weight: float | None, before: float) -> None:
        """An exchange begins; `weight` is this rank's in a weighted one, `before` that of what was reduced already."""
        super().begin(weight, before)
        self.greeting = _WEIGHT.pack(math.nan if weight is None else weight)

    def launch(self, bucket: Bucket) -> None:
        """Hand a closed bucket to the hook."""
        parcel = self.parcels.get(bucket)
        if parcel is None:
            received = self.received[bucket.group][bucket.begin:bucket.end]
            parcel = self.parcels[bucket] = Parcel(bucket, bucket.begin, bucket.send, received)
        greeting, self.greeting = self.greeting, b""
        self.works.append((parcel, self.turns.take(parcel, greeting, _nothing)))

    def finish(self) -> None:
        """Wait for all buckets; each group's memory then holds the mean (weighted: what `divide` needs).

        Raises:
            RankFailedError: the hook raised on another rank. What it raised on this one is raised as it is.
        """
        works, self.works = self.works, []
        for _, work in works:
            work.wait()
        verdict = self.turns.finish()
        if verdict is not None:
            raise verdict.error
        for parcel, _ in works:
            parcel.send[...] = parcel.recv

    def divide(self, total: float) -> None:
        """After a weighted exchange: means become sums again, and those so far go over the sum of all weights."""
        for group in self.groups:
            flat = group.flat
            flat *= self.comm.size
        super().divide(total)


def _greeted(greetings: list[bytes]) -> float:
    return total_weight([_WEIGHT.unpack(greeting)[0] for greeting in greetings])


def _nothing() -> None:
    """What follows is done when all buckets are there."""
