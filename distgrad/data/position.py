"""How far a loader has come in a pass, and the state that says so.

Where the sampler can be resumed, the place is a number of samples, and the sampler's state says it; for
other orders it is a number of batches, which a resumed pass leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backend.random import Generator, default_generator
from .resumable import ResumableSampler, require_state

__all__ = ["Position"]


class Position:
    """The place in the latest pass of one loader.

    Args:
        sampler: what decides the order, if it is resumable by itself; None counts batches.
        step: samples a batch takes from it.
        generator: the loader's own, or None for the context's.
        workers: how many iterators a pass reads; a place in one of several is only good for as many. 0 where
            the order does not depend on it.
    """

    def __init__(self, sampler: ResumableSampler | None, step: int, generator: Generator | None, workers: int) -> None:
        self._sampler = sampler
        self._step = step
        self._generator = generator
        self._workers = workers
        self._pass = -1       # which pass the latest is, from 0
        self._skip = 0        # batches that an earlier run has consumed in it
        self._handed = 0      # and how many this one has
        self._resume = False  # the next pass is the rest of the latest

    def begin(self) -> int:
        """A pass begins, the sampler's own has begun. Returns how many batches it leaves out."""
        if not self._resume:
            self._pass += 1
            self._skip = 0
        self._resume = False
        self._handed = 0
        return self._skip

    def entropy(self) -> tuple[int, ...]:
        """What the random streams of this pass begin from. Draws nothing: to read is not to disturb a training."""
        own = None if self._sampler is None else self._sampler.entropy
        return ((self._generator or default_generator()).initial_seed(), self._pass) if own is None else own

    def handed_out(self, batches: int, done: bool) -> None:
        """So many batches have been handed out in this pass, and it is over or not."""
        self._handed = batches
        if self._sampler is not None:
            self._sampler.mark(batches * self._step, done)

    def first_sample(self, number: int) -> int:
        """Where in the order of all replicas a batch begins: no two batches of an epoch begin at one place."""
        if self._sampler is None:
            return self._skip + number
        return self._sampler.start + number * self._step * self._sampler.num_replicas + self._sampler.rank

    def state_dict(self) -> dict[str, Any]:
        """The place, of JSON types only."""
        state: dict[str, Any] = {}
        if self._sampler is None:
            state["batches"] = self._skip + self._handed
        else:
            state |= self._sampler.state_dict()
        if self._sampler is None or self._sampler.entropy is None:
            state["pass"] = max(self._pass, 0)
        return state if not self._workers else {**state, "num_workers": self._workers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass be the rest of the saved one."""
        what = "DataLoader"
        counted = self._sampler is None or self._sampler.entropy is None
        names = {**({"pass": int} if counted else {}), **({"batches": int} if self._sampler is None else {}),
                 **({"num_workers": int} if self._workers else {})}
        require_state(what, state, names)
        if self._workers and state["num_workers"] != self._workers:
            raise ValueError(f"{what} state: {state['num_workers']} workers took turns in reading the IterableDataset, "
                             f"and here are {self._workers}: their batches differ")
        if self._sampler is not None:
            self._sampler.load_state_dict(state)
        self._handed = 0
        if counted:
            self._pass = int(state["pass"])
        self._skip = int(state.get("batches", 0))
        self._resume = True
