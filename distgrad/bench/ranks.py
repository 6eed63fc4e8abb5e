"""What benchmarks on several ranks share: times of the slowest rank, gradients without a backward, torch as a peer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .._tensor.creation import full
from ..comm import Communicator
from ..distributed import DataParallel
from ..distributed.session import reduce_nothing
from ..flat import State
from ..nn import Module, Parameter, ParameterList
from .clock import Sample, measure, summarize

__all__ = ["Gradients", "slowest", "torch_ranks"]


def slowest(comm: Communicator, contestants: Mapping[str, Callable[[], object]], rounds: int,
            warmup: int = 3, lead: int = 1) -> list[Sample]:
    """Measure with all ranks starting each call together, after `lead` that are not timed; what counts is the rank
    that takes longest. Collective."""
    times = measure(contestants, rounds, warmup, before=comm.barrier, lead=lead)
    mine = np.array(list(times.values()))
    everyone = np.empty((comm.size, *mine.shape))
    comm.allgather(mine, everyone)
    return summarize(dict(zip(times, everyone.max(axis=0).tolist(), strict=True)))


class _Parameters(Module):
    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.all = ParameterList([Parameter(full((size,), 0.5)) for size in sizes])


class Gradients:
    """A data-parallel model of float32 parameters of these sizes, whose gradients are just there.

    Attributes:
        parameters: to clip and to update.
        transport: how DataParallel exchanges gradients here.
    """

    def __init__(self, sizes: Sequence[int], comm: Communicator) -> None:
        self._model = DataParallel(_Parameters(sizes), comm)
        assert self._model._reducer is not None, "benchmarks of exchanges need two ranks or more"
        self._reducer = self._model._reducer
        self.transport = self._model.transport
        self.parameters = list(self._model.module.parameters())
        for group in self._reducer.groups:
            group.flat[...] = 0.01 * (comm.rank + 1)

    def _arrive(self) -> None:
        """As if a backward had written all gradients."""
        for placement in self._reducer.placements:
            placement.group.state = State.LOCAL
            placement.hold()
            placement.home.bump()

    def exchange(self) -> None:
        """Turn the gradients into their mean over the ranks, and nothing else."""
        exchange = self._reducer.exchange
        exchange.begin(None, 0.0)
        for bucket in self._reducer.buckets:
            exchange.launch(bucket)
        exchange.finish()

    def reduce(self) -> None:
        """The whole of what follows a backward: exchange, and agreement on what was used."""
        self._arrive()
        reduce_nothing(self._reducer)

    def close(self) -> None:
        """Give communicators back; collective."""
        self._model.close()


@contextmanager
def torch_ranks(comm: Communicator) -> Iterator[Any]:
    """torch with a gloo process group of the ranks of `comm`, one thread each. Collective."""
    import torch
    import torch.distributed as group

    torch.set_num_threads(1)
    folder = tempfile.mkdtemp(prefix="distgrad-bench-") if comm.rank == 0 else ""
    folder = comm.broadcast_bytes(folder.encode()).decode()
    try:
        group.init_process_group("gloo", init_method=f"file://{folder}/store", rank=comm.rank, world_size=comm.size)
        yield torch
        comm.barrier()
        group.destroy_process_group()
    finally:
        if comm.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
