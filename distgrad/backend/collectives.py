"""What a device offers to several ranks that have one each: collectives that run beside the computation.

`Backend.collectives` makes them; here is only what they can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .._typing import Array

__all__ = ["Collectives"]


class Collectives(Protocol):
    """Collectives among the devices of several ranks, beside the computation: calls queue, and the host goes on.

    Attributes:
        usable: it was neither closed nor given up.
        done: everything that was queued has ended on this rank's device.
    """

    @property
    def usable(self) -> bool: ...

    @property
    def done(self) -> bool: ...

    def all_reduce(self, array: Array, mean: bool = False) -> None:
        """Queue the sum over all ranks, or their mean, in place: after what the device has queued for computation."""

    def all_gather(self, array: Array, owned: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Queue that everybody gets the elements [begin, end) which each rank owns, into the same array."""

    def wait(self) -> None:
        """What the device computes from now on comes after what was queued here."""

    def check(self) -> None:
        """Raise CommError, and give up, if something has failed; waits for nothing."""

    def abort(self) -> None:
        """Give up at once; what other ranks' devices wait for here ends as well."""

    def close(self) -> None:
        """Give it back, after everything has ended on all ranks."""
