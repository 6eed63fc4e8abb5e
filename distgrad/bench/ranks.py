"""What benchmarks on several ranks share: times of the slowest rank, and gradients without a backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .._tensor.creation import full
from ..comm import Communicator
from ..distributed import DataParallel
from ..distributed.session import reduce_nothing
from ..flat import State
from ..nn import Module, Parameter, ParameterList
from .clock import Sample, measure, summarize
from .place import HERE, Place

__all__ = ["Gradients", "slowest"]


def slowest(comm: Communicator, contestants: Mapping[str, Callable[[], object]], rounds: int,
            warmup: int = 3, lead: int = 1, place: Place = HERE) -> list[Sample]:
    """Measure with all ranks starting each call together, after `lead` that are not timed, until the rank's device has
    done its work; what counts is the rank that takes longest. Collective."""
    calls = {name: place.finished(call) for name, call in contestants.items()}
    times = measure(calls, rounds, warmup, before=comm.barrier, lead=lead)
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

    def __init__(self, sizes: Sequence[int], comm: Communicator, place: Place = HERE) -> None:
        self._model = DataParallel(place.to(_Parameters(sizes)), comm)
        self._reducer = self._model._reducer  # None on one rank
        self.transport = self._model.transport
        self.parameters = list(self._model.module.parameters())
        for group in self._model._groups:
            group.flat[...] = 0.01 * (comm.rank + 1)

    def _arrive(self) -> None:
        """As if a backward had written all gradients."""
        for group in self._model._groups:
            group.state = State.LOCAL
            for placement in group.placements:
                placement.hold()
                placement.home.bump()

    def exchange(self) -> None:
        """Turn the gradients into their mean over the ranks, and nothing else; there are two or more."""
        assert self._reducer is not None
        exchange = self._reducer.exchange
        exchange.begin(None, 0.0)
        for bucket in self._reducer.buckets:
            exchange.launch(bucket)
        exchange.finish()

    def reduce(self) -> None:
        """The whole of what follows a backward: exchange, and agreement on what was used; on one rank, nothing."""
        self._arrive()
        if self._reducer is not None:
            reduce_nothing(self._reducer)

    def close(self) -> None:
        """Give communicators back; collective."""
        self._model.close()
