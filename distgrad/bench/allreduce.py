"""One buffer on every rank -> its sum on every rank: this package's ways, MPI's own, and torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ..comm import Communicator
from ..distributed import world
from .clock import Sample
from .ranks import Gradients, slowest, torch_ranks

__all__ = ["SIZES", "run"]

SIZES = (4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)  # bytes


def run(sizes: Sequence[int] = SIZES, rounds: int = 30, peer: str | None = None) -> list[tuple[int, list[Sample]]]:
    """Time the sum of float32 buffers over all ranks of the world. Collective.

    Args:
        sizes: bytes.
        peer: 'torch' adds gloo's all_reduce among the same ranks.

    Returns:
        For each size the samples: 'DataParallel, shared' (or the transport that it takes here; means, with
        the sums of squares for clipping), 'rank order over MPI', 'MPI', 'MPI in place', 'torch gloo'.
    """
    comm = world()
    found = []
    with torch_ranks(comm) if peer == "torch" else nullcontext() as torch:
        for size in sizes:
            gradients = Gradients([max(1, size // 4)], comm)
            found.append((size, slowest(comm, _contestants(comm, gradients, max(1, size // 4), torch), rounds)))
            gradients.close()
    return found


def _contestants(comm: Communicator, gradients: Gradients, count: int, torch: Any) -> dict[str, Callable[[], Any]]:
    send, recv = (np.full(count, 0.0, "float32") for _ in range(2))
    contestants: dict[str, Callable[[], Any]] = {
        f"DataParallel, {gradients.transport}": gradients.exchange,
        "sum in rank order": lambda: comm.allreduce(send, recv, checked=False),
    }
    own = getattr(comm, "library_allreduce", None)
    if own is not None:
        contestants["MPI"] = lambda: own(send, recv)
        contestants["MPI in place"] = lambda: own(None, recv)
    if torch is not None:
        tensor = torch.zeros(count)
        contestants["torch gloo"] = lambda: torch.distributed.all_reduce(tensor)
    return contestants
