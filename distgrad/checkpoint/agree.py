"""What ranks tell each other of success and failure, so that what fails on one rank fails on all.

Exceptions travel as JSON: their type, where it is one that is raised on purpose, and their text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from ..comm import Communicator
from ..errors import CheckpointError, CommError, WeightsFileError

__all__ = ["agreed", "describe", "is_of_disk", "understand"]

T = TypeVar("T")

_KINDS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (
    CheckpointError, FileNotFoundError, ImportError, KeyError, RuntimeError, TypeError, ValueError, WeightsFileError)}


def describe(failure: Exception | None) -> bytes:
    """An exception as bytes; none as none."""
    if failure is None:
        return b""
    numbers = []
    if isinstance(failure, OSError) and failure.errno is not None:
        numbers = [failure.errno, failure.strerror, failure.filename]
    return json.dumps([type(failure).__name__, str(failure), numbers], default=str).encode()


def is_of_disk(told: bytes) -> bool:
    """Whether a description is of an error that the operating system gave, such as a full disk."""
    return bool(json.loads(told)[2])


def understand(told: bytes, rank: int, doing: str) -> Exception:
    """Another rank's exception, of the same type where that is one that is raised on purpose."""
    kind, text, numbers = json.loads(told)
    if numbers:
        return OSError(*numbers)
    make: Callable[[str], Exception] = _KINDS.get(kind, CommError)
    return make(f"rank {rank} could not {doing}: {text}")


def agreed(comm: Communicator, doing: str, action: Callable[[], T]) -> T:
    """The result of `action()`, if it worked on every rank; what it raised on any is raised on all. Collective.

    Where it failed on several ranks, all raise what the first of them did, so that all go on alike.
    """
    failure: Exception | None = None
    result: T | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    for rank, told in enumerate(comm.allgather_bytes(describe(failure))):
        if told:
            raise failure if failure is not None and rank == comm.rank else understand(told, rank, doing)
    return result  # type: ignore[return-value]
