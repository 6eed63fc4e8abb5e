"""The exceptions that only distgrad raises. Everything torch has a type for uses torch's type.

Nothing here knows about arrays, graphs or ranks beyond their numbers.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["AnomalyError", "CheckpointError", "CollectiveMismatchError", "CommError", "DistgradError",
           "OutOfMemoryError", "RankFailedError", "WeightsFileError", "current_rank", "rank_prefix"]


class DistgradError(RuntimeError):
    """Base of every exception of distgrad's own; a RuntimeError, as torch's errors are."""


class AnomalyError(DistgradError):
    """`detect_anomaly` saw a NaN or an Inf; the message names the forward line that made it."""


class CommError(DistgradError):
    """The ranks could not exchange something: a transport that failed, or a closed communicator."""


class CollectiveMismatchError(CommError):
    """Ranks called different collectives, or the same one with other shapes, counts or dtypes."""


class RankFailedError(CommError):
    """Another rank ended or raised while this one waited for it.

    Attributes:
        rank: the rank that failed, or None when several did.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class CheckpointError(DistgradError, ValueError):
    """A checkpoint that is damaged, foreign, in use by another job, or does not fit what it is loaded into."""


class OutOfMemoryError(DistgradError):
    """A device's memory is full; the message says what fills it. The next, smaller batch may be tried."""


class WeightsFileError(DistgradError, ValueError):
    """A weights file that is damaged, foreign, or does not fit the model."""


current_rank: ContextVar[int | None] = ContextVar("distgrad_rank", default=None)


def rank_prefix() -> str:
    """'rank 3: ' in a world of several ranks, '' otherwise: how messages name who speaks."""
    rank = current_rank.get()
    return "" if rank is None else f"rank {rank}: "
