"""A world of one with gradients on a device: there they stay, and there weighted ones are added up and divided.

Nothing is copied or asked, so the host waits for nothing. What lies on the host is another exchange's.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..flat import Group
from ..graph.places import beside
from .bucket import Bucket
from .exchange import Exchange
from .sums import Sums

__all__ = ["AloneExchange"]


class AloneExchange:
    """The verbs of Exchange, where there is nobody to exchange with."""

    def __init__(self, groups: Sequence[Group], others: Exchange) -> None:
        """
        Args:
            groups: those on devices.
            others: of all groups that are not among them.
        """
        self.sums = {group: Sums(group) for group in groups}
        self.others = others
        self.weighted = self.more = False

    def begin(self, weight: float | None, before: float) -> None:
        """A backward begins; see Exchange."""
        self.weighted, self.more = weight is not None, before > 0
        self.others.begin(weight, before)

    def launch(self, bucket: Bucket) -> None:
        """A closed bucket is the mean over one rank; its sum is kept for those that follow."""
        sums = self.sums.get(bucket.group)
        if sums is None:
            self.others.launch(bucket)
        elif self.weighted:
            with beside((bucket.send,)):
                sums.part(bucket)

    def progress(self) -> None:
        """Devices need no help."""
        self.others.progress()

    def finish(self) -> None:
        """Everything is where it belongs."""
        self.others.finish()

    def divide(self, total: float) -> None:
        """After a weighted exchange, the sum of all weights is known."""
        self.others.divide(total)
        for group, sums in self.sums.items():
            with beside((group.flat,)):
                sums.divide(total, self.more)

    def close(self) -> None:
        """Give back what the other exchange has."""
        self.others.close()
