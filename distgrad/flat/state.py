"""What a group's gradients are, and what a group asks of memory that it shares with other ranks."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from .._typing import Array
from .layout import Range

__all__ = ["Peers", "State"]


class State(enum.Enum):
    """What a group's gradients are."""

    EMPTY = enum.auto()     # no gradient yet; a backward makes it LOCAL
    LOCAL = enum.auto()     # this rank's own sum; a reduction makes it REDUCED
    REDUCED = enum.auto()   # the mean over ranks; zero_grad makes it EMPTY


class Peers(Protocol):
    """What a group asks of the memory that it shares with other ranks, while its gradients are sharded."""

    def leave(self) -> None:
        """This rank is about to write to its gradients: what they held is no longer for others to read."""

    def arrive(self) -> None:
        """This rank's part of the reduced gradients is final."""

    def fence(self) -> None:
        """Return when all ranks have come here: nobody reads what was there before, or sees what comes half done."""

    def read(self, ranges: Sequence[Range]) -> Array:
        """The owners' reduced gradients of these ranges, copied one after the other.

        Raises:
            RuntimeError: an owner has gone on, and has overwritten them.
        """
