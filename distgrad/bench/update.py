"""The whole update: gradients of all ranks -> mean -> global norm -> clip -> Adam, until all ranks are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from ..comm import Communicator
from ..distributed import ZeroRedundancyOptimizer, world
from ..nn.utils import clip_grad_norm_
from ..optim import Adam
from .clock import Sample
from .place import HERE, Place
from .ranks import Gradients, slowest
from .torch_ranks import torch_if_it_can

__all__ = ["SIZES", "run"]

SIZES = (30_000, 670_000, 5_800_000, 25_000_000)  # parameters
_MANY = 8


def run(sizes: Sequence[int] = SIZES, rounds: int = 30, peer: str | None = None,
        place: Place = HERE) -> list[tuple[int, list[Sample]]]:
    """Time updates of float32 models on all ranks of the world. Collective.

    Args:
        sizes: how many parameters.
        peer: 'torch' adds the all_reduce of one flat gradient (by gloo, or NCCL on GPUs of their own; none on one
            rank), clip_grad_norm_ and the fused Adam.
        place: where the models lie.

    Returns:
        For each size the samples 'sharded' and 'replicated' for a model of one tensor, the same for eight, and 'torch'.
    """
    comm = world()
    found = []
    with ExitStack() as stack:
        torch = torch_if_it_can(stack, comm, place, peer)
        for size in sizes:
            split = [size // _MANY] * (_MANY - 1)
            many = [*split, size - sum(split)]
            contestants, models = {}, []
            for name, sizes_, sharded in (("sharded", [size], True), ("sharded, eight tensors", many, True),
                                          ("replicated", [size], False), ("replicated, eight tensors", many, False)):
                models.append(Gradients(sizes_, comm, place))
                contestants[name] = _update(models[-1], sharded)
            if torch is not None:
                contestants["torch"] = _torch_update(torch, comm, size, place)
            found.append((size, slowest(comm, contestants, rounds, place=place)))
            for model in models:
                model.close()
    return found


def _update(model: Gradients, sharded: bool) -> Callable[[], None]:
    optimizer: Any = ZeroRedundancyOptimizer(model.parameters, Adam, lr=1e-3) if sharded else \
        Adam(model.parameters, lr=1e-3)

    def update() -> None:
        optimizer.zero_grad()
        model.reduce()
        clip_grad_norm_(model.parameters, 1.0)
        optimizer.step()

    return update


def _torch_update(torch: Any, comm: Communicator, size: int, place: Place) -> Callable[[], None]:
    parameter = torch.nn.Parameter(torch.full((size,), 0.5, device=place.peers))
    parameter.grad = torch.full((size,), 0.01 * (comm.rank + 1), device=place.peers)
    optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True)

    def update() -> None:
        if comm.size > 1:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad.div_(comm.size)
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()

    return update
