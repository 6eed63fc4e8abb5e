"""Gradients on a device, exchanged by way of the host: each flat group has a twin in host memory, which is reduced.

    bucket on the device -> (copied while backward goes on) -> twin -> the exchange of the twins -> back to the device

The twins lie where gradients of the host would (in memory that a node's ranks share, or in this process), and any
exchange reduces them: sums, order and bits are those of the host. Device memory never reaches MPI this way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from .._typing import Array
from ..backend import of
from ..comm.staging import on_host
from ..flat import GRID, Group, Layout
from .bucket import Bucket
from .exchange import Exchange

__all__ = ["StagedExchange", "staged", "standing_in", "twin_of"]


def twin_of(layout: Layout, like: Array, host: Array | None, label: str) -> tuple[Array, Group | None]:
    """The flat memory for gradients of parameters such as `like`, and the group that is exchanged in its place.

    Args:
        host: the memory that the transport has laid out for them; None where they go from device to device.

    Returns:
        (the memory, None) for gradients that are exchanged where they lie.
    """
    if host is not None and on_host(like):
        return host, None
    backend = of(like)
    with backend.using(backend.device_of(like)):
        flat = backend.xp.zeros(layout.size, layout.dtype)
    if host is None:
        return flat, None
    backend.pin(host)
    return flat, Group(layout, host, label=label)


def staged(exchange: Exchange, twins: dict[Group, Group]) -> Exchange:
    """The exchange for groups of which some have twins; the exchange itself where none has."""
    return StagedExchange(exchange, twins) if twins else exchange


class StagedExchange:
    """Copies each bucket to its twin, has the twins exchanged, and copies the means back."""

    def __init__(self, exchange: Exchange, twins: dict[Group, Group]) -> None:
        self.exchange = exchange
        self.twins = twins
        self.buckets: dict[Bucket, Bucket] = {}
        self.leaving: deque[tuple[Bucket, Any]] = deque()  # a twin's bucket, and the copy that has to be there first
        self.launched: list[tuple[Bucket, Bucket]] = []
        self.weighted = False

    def begin(self, weight: float | None, before: float) -> None:
        """A backward begins; see Exchange."""
        self.leaving.clear()
        self.launched.clear()
        self.weighted = weight is not None
        self.exchange.begin(weight, before)

    def _twin(self, bucket: Bucket) -> Bucket:
        twin = self.buckets.get(bucket)
        if twin is None:
            group = self.twins.get(bucket.group)
            twin = bucket if group is None else Bucket(bucket.index, group, bucket.begin, bucket.end)
            self.buckets[bucket] = twin
        return twin

    def launch(self, bucket: Bucket) -> None:
        """Start the copy of a bucket to the host; it goes on when the copy is there, and those before it are."""
        twin = self._twin(bucket)
        copy = None if twin is bucket else of(bucket.send).start_to_host(bucket.send, twin.send)
        self.leaving.append((twin, copy))
        self.launched.append((bucket, twin))
        self._send_on(False)

    def _send_on(self, wait: bool) -> None:
        while self.leaving:
            twin, copy = self.leaving[0]
            if copy is not None:
                if not wait and not copy.done:
                    return
                copy.wait()
            self.leaving.popleft()
            self.exchange.launch(twin)

    def progress(self) -> None:
        """Send on what has been copied."""
        self._send_on(False)
        self.exchange.progress()

    def finish(self) -> None:
        """Return when the groups' device memory holds the means (weighted: when `divide` can be called)."""
        self._send_on(True)
        self.exchange.finish()
        if not self.weighted:
            self._bring_back()

    def divide(self, total: float) -> None:
        """After a weighted exchange, the sum of all weights is known."""
        self.exchange.divide(total)
        self._bring_back()

    def _bring_back(self) -> None:
        for bucket, twin in self.launched:
            if twin is not bucket:  # a twin is written next by a copy that is queued after this one
                of(bucket.send).fill_from_host(bucket.send, twin.send, non_blocking=True)
        for group in self.twins:  # all of it is here: every rank takes the squares for itself, and gets the same bits
            group.note_partials(of(group.flat).kernels.norm_blocks(group.flat, 2.0, GRID))

    def close(self) -> None:
        """Give communicators and threads back; collective."""
        self.exchange.close()


def standing_in(groups: Sequence[Group], twins: dict[Group, Group]) -> list[Group]:
    """The groups that are exchanged: the twins of those on a device, the others themselves."""
    return [twins.get(group, group) for group in groups]
