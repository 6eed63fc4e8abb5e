"""Before ranks work together: are their models the same, and do they start from the same values?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ..backend import of
from ..comm import Communicator
from ..errors import CollectiveMismatchError, rank_prefix

__all__ = ["broadcast_tensors", "verify_same"]


def verify_same(tensors: Sequence[tuple[str, Any]], settings: dict[str, Any], comm: Communicator, label: str) -> None:
    """Compare names, shapes, dtypes and order of `tensors`, and `settings`, over the ranks.

    Raises:
        CollectiveMismatchError: on every rank, naming the first tensor that differs and on which rank.
    """
    mine = [[name, list(t.shape), str(t.dtype), bool(t.requires_grad)] for name, t in tensors]
    text = json.dumps([mine, settings]).encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    if len(set(comm.allgather_bytes(digest))) == 1:
        return
    models = [json.loads(theirs) for theirs in comm.allgather_bytes(text)]
    raise CollectiveMismatchError(f"{rank_prefix()}{label} is not the same on every rank: {_difference(models)}")


def _difference(models: list[Any]) -> str:
    """The first thing in which any rank differs from rank 0."""
    (first, settings), others = models[0], models[1:]
    for rank, (theirs, their_settings) in enumerate(others, 1):
        for position, (a, b) in enumerate(zip(first, theirs, strict=False)):
            if a != b:
                return f"parameter or buffer {position} is {_describe(a)} on rank 0 and {_describe(b)} on rank {rank}"
        if len(first) != len(theirs):
            longer, extra = (0, first[len(theirs)]) if len(first) > len(theirs) else (rank, theirs[len(first)])
            return (f"rank 0 has {len(first)} parameters and buffers, rank {rank} has {len(theirs)}; the first that is "
                    f"missing on one of them is {_describe(extra)} of rank {longer}")
        if settings != their_settings:
            return f"it was wrapped with {settings} on rank 0 and with {their_settings} on rank {rank}"
    return "the ranks do not agree on what differs"


def _describe(entry: Any) -> str:
    name, shape, dtype, requires_grad = entry
    return f"{name!r} (shape {tuple(shape)}, {dtype}{', frozen' if not requires_grad else ''})"


def broadcast_tensors(tensors: Sequence[Any], comm: Communicator, root: int = 0) -> None:
    """Overwrite the tensors' memory with rank `root`'s values."""
    for t in tensors:
        backend = of(t.array)
        with backend.using(backend.device_of(t.array)):
            buffer = backend.xp.ascontiguousarray(t.array)
        host = backend.to_host(buffer)
        comm.broadcast(host, root)
        if comm.rank != root:
            backend.fill_from_host(t.array, host.reshape(t.array.shape))
            t.bump()
