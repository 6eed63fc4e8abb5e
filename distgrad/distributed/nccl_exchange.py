"""Gradients on devices, exchanged from device to device: each bucket on a stream of collectives beside backward.

    launch: queue the sum, behind what backward has written -> finish: what is computed next comes after all sums

The host waits for nothing. Sums are taken in an order of NCCL's own, so results equal those of other exchanges to
rounding; every rank gets the same bits, and takes squares and quotients of them for itself.

[Note: collectives on devices] A queued sum occupies the device until every rank has queued its own, so a host that
waits for its device waits for the other ranks' hosts. That ends, because no host waits for another one by other means
between the launch of its first bucket and that of its last, and every rank launches all of them: what did not arrive
is launched at the end of backward, and a backward that raises launches the rest (`Reducer.abandon`). After
`finish` comes the control message, which is heard only when all ranks have come to it and so have queued everything;
from there on waiting for the device is safe. Should a rank die in between, the message tells of it, not the device;
and where it tells of a rank whose device has failed, or fails itself, every rank gives the collectives up, which ends
what its own device waits for.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import of
from ..comm.devices import DeviceRanks
from ..flat import GRID, Group
from ..graph.places import beside
from .bucket import Bucket
from .exchange import Exchange
from .sums import Sums

__all__ = ["NcclExchange"]


class NcclExchange:
    """Reduces groups on devices there, and has another exchange reduce those on the host, if there are any."""

    def __init__(self, groups: Sequence[Group], devices: DeviceRanks, others: Exchange | None) -> None:
        """
        Args:
            groups: those on this rank's device.
            others: of all groups that are not among them.
        """
        self.devices = devices
        self.collectives = devices.collectives
        self.others = others
        self.sums = {group: Sums(group) for group in groups}
        self.weighted = self.more = False

    def begin(self, weight: float | None, before: float) -> None:
        """A backward begins; see Exchange."""
        self.weighted, self.more = weight is not None, before > 0
        if self.others is not None:
            self.others.begin(weight, before)

    def launch(self, bucket: Bucket) -> None:
        """Queue the sum of a closed bucket, or its mean."""
        sums = self.sums.get(bucket.group)
        if sums is not None:
            if not self.collectives.usable:  # the end of backward tells
                return
            with beside((bucket.send,)):
                self.collectives.all_reduce(sums.part(bucket), mean=not self.weighted)
        elif self.others is not None:
            self.others.launch(bucket)

    def progress(self) -> None:
        """Devices need no help."""
        if self.others is not None:
            self.others.progress()

    def finish(self) -> None:
        """The groups' memory holds the means (weighted: what `divide` needs) for whatever is queued from now on."""
        self.collectives.wait()
        if self.others is not None:
            self.others.finish()
        if not self.weighted:
            for group, sums in self.sums.items():
                with beside((group.flat,)):
                    sums.bring_back()
                    _note_squares(group)

    def divide(self, total: float) -> None:
        """After a weighted exchange, the sum of all weights is known."""
        if self.others is not None:
            self.others.divide(total)
        for group, sums in self.sums.items():
            with beside((group.flat,)):
                sums.divide(total, self.more)
                _note_squares(group)

    def close(self) -> None:
        """Give the collectives back, if nobody else uses them; collective."""
        if self.others is not None:
            self.others.close()
        self.devices.close()


def _note_squares(group: Group) -> None:
    """All of the group is here: every rank takes the squares for itself, and gets the same bits."""
    group.note_partials(of(group.flat).kernels.norm_blocks(group.flat, 2.0, GRID))
