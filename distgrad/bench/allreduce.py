"""One buffer on every rank -> its sum on every rank: this package's ways, MPI's own, and torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from .._tensor.creation import zeros
from ..comm import Communicator
from ..config import config
from ..distributed import world
from .clock import Sample
from .place import HERE, Place
from .ranks import Gradients, slowest
from .torch_ranks import torch_if_it_can

__all__ = ["SIZES", "run"]

SIZES = (4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)  # bytes


def run(sizes: Sequence[int] = SIZES, rounds: int = 30, peer: str | None = None,
        place: Place = HERE) -> list[tuple[int, list[Sample]]]:
    """Time the sum of float32 buffers over all ranks of the world. Collective.

    Args:
        sizes: bytes.
        peer: 'torch' adds the all_reduce of gloo among the same ranks, or of NCCL on GPUs of their own.
        place: where the buffers lie. MPI's own sum is asked for those of a device only if it takes them.

    Returns:
        For each size the samples: 'DataParallel, shared' (or the transport that it takes here; means, with
        the sums of squares for clipping), 'sum in rank order', 'MPI', 'MPI in place', 'torch gloo' or 'torch nccl'.
    """
    comm = world()
    found = []
    with ExitStack() as stack:
        torch = torch_if_it_can(stack, comm, place, peer)
        for size in sizes:
            count = max(1, size // 4)
            gradients = Gradients([count], comm, place)
            contestants = _contestants(comm, gradients, count, torch, place)
            found.append((size, slowest(comm, contestants, rounds, place=place)))
            gradients.close()
    return found


def _contestants(comm: Communicator, gradients: Gradients, count: int, torch: Any,
                 place: Place) -> dict[str, Callable[[], Any]]:
    send, recv = (zeros(count, dtype="float32", device=place.device).array for _ in range(2))
    contestants: dict[str, Callable[[], Any]] = {
        f"DataParallel, {gradients.transport}": gradients.exchange,
        "sum in rank order": lambda: comm.allreduce(send, recv, checked=False),
    }
    own = getattr(comm, "library_allreduce", None)
    if own is not None and (place.device == "cpu" or (place.is_gpu and config.cuda_mpi)):
        contestants["MPI"] = lambda: own(send, recv)
        contestants["MPI in place"] = lambda: own(None, recv)
    if torch is not None:
        tensor = torch.zeros(count, device=place.peers)
        contestants[f"torch {torch.distributed.get_backend()}"] = lambda: torch.distributed.all_reduce(tensor)
    return contestants
