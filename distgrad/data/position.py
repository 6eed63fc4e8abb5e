"""How far a loader has come in a pass, and the state that says so.

Where the sampler can be resumed, the place is a number of samples, and the sampler's state says it; for
other orders it is a number of batches, which a resumed pass leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backend.random import Generator, default_generator
from .resumable import ResumableSampler, require_state

__all__ = ["Pass", "Position"]


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
        self.sampler = sampler
        self.step = step
        self.latest: Pass | None = None
        self._generator = generator
        self._workers = workers
        self._number = -1     # which pass the latest is, from 0
        self._skip = 0        # batches that an earlier run has consumed in it
        self._handed = 0      # and how many this one has
        self._resume = False  # the next pass is the rest of the latest

    def begin(self) -> Pass:
        """A pass begins; the sampler's own has begun."""
        if not self._resume:
            self._number += 1
            self._skip = 0
        self._resume = False
        self._handed = 0
        # Nothing is drawn for what the entropy begins with: to read is not to disturb a training.
        own = None if self.sampler is None else self.sampler.entropy
        self.latest = Pass(self, self._skip, ((self._generator or default_generator()).initial_seed(), self._number)
                           if own is None else own)
        return self.latest

    def handed_out(self, batches: int, done: bool) -> None:
        """So many batches have been handed out in the latest pass, and it is over or not."""
        self._handed = batches
        if self.sampler is not None:
            self.sampler.mark(batches * self.step, done)

    def state_dict(self) -> dict[str, Any]:
        """The place, of JSON types only."""
        state: dict[str, Any] = {}
        if self.sampler is None:
            state["batches"] = self._skip + self._handed
        else:
            state |= self.sampler.state_dict()
        if self._counted:
            state["pass"] = max(self._number, 0)
        return state if not self._workers else {**state, "num_workers": self._workers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass be the rest of the saved one."""
        what = "DataLoader"
        names = {**({"pass": int} if self._counted else {}), **({"batches": int} if self.sampler is None else {}),
                 **({"num_workers": int} if self._workers else {})}
        require_state(what, state, names)
        if self._workers and state["num_workers"] != self._workers:
            raise ValueError(f"{what} state: {state['num_workers']} workers took turns in reading the IterableDataset, "
                             f"and here are {self._workers}: their batches differ")
        if self.sampler is not None:
            self.sampler.load_state_dict(state)
        if self._counted:
            self._number = int(state["pass"])
        self._skip = int(state.get("batches", 0))
        self._handed = 0
        self._resume = True
        self.latest = None

    @property
    def _counted(self) -> bool:
        """Whether passes are told apart by their number, because the sampler does not tell them apart."""
        return self.sampler is None or self.sampler.entropy is None


class Pass:
    """One pass as its iterator knows it.

    Attributes:
        skip: how many batches it leaves out.
        entropy: what the random streams of its batches begin from.
    """

    def __init__(self, position: Position, skip: int, entropy: tuple[int, ...]) -> None:
        self.skip = skip
        self.entropy = entropy
        self._position = position
        sampler = position.sampler
        self._first, self._stride = skip, 1
        if sampler is not None:
            self._first, self._stride = sampler.start + sampler.rank, position.step * sampler.num_replicas

    def first_sample(self, number: int) -> int:
        """Where in the order of all replicas a batch begins: no two batches of an epoch begin at one place."""
        return self._first + number * self._stride

    def handed_out(self, batches: int, done: bool) -> None:
        """So many batches have been handed out. Only of the latest pass does anybody keep the place."""
        if self._position.latest is self:
            self._position.handed_out(batches, done)
