"""What all samplers share: how arguments are checked, and a place in a pass that can be saved.

It knows numbers of samples, and neither datasets nor batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

__all__ = ["ResumableSampler", "Sampler", "require_count", "require_state"]

T = TypeVar("T", covariant=True)
_BLOCK = 4096  # indices that become Python's integers at once


def require_count(name: str, value: Any, least: int) -> int:
    """`value` if it is an int of at least `least`; TypeError or ValueError naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is a whole number, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} is at least {least}, got {value}")
    return int(value)


def require_state(what: str, state: Any, kinds: Mapping[str, type]) -> None:
    """Refuse what is no state of `what`: a mapping that has these names, of these types.

    Raises:
        TypeError: no mapping, or a value of another type.
        KeyError: a name is missing.
        ValueError: a number below 0.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"the state of a {what} is a dictionary, got {type(state).__name__}")
    for name, kind in kinds.items():
        if name not in state:
            raise KeyError(f"the state of a {what} has {name!r}; this one has {sorted(map(str, state))}")
        if kind is int:
            require_count(f"{what} state: {name}", state[name], 0)
        elif not isinstance(state[name], kind):
            raise TypeError(f"{what} state: {name} is a {kind.__name__}, got {state[name]!r}")


class Sampler(Generic[T]):
    """Yields indices, or lists of them as a batch sampler: a subclass defines `__iter__()` and `__len__()`."""

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError(f"{type(self).__name__} is a Sampler without __iter__")


class ResumableSampler(Sampler[int]):
    """A sampler whose place in a pass can be saved, and where the next pass begins there.

    A subclass says how many samples a whole pass has (`_total`), and which indices are left of it once
    `consumed` of them have been (`_rest`). What counts as consumed: all that the latest iterator has
    yielded, or, where a DataLoader reads this sampler, what the loader has handed out.
    """

    num_replicas = 1  # how many samples of the pass are consumed for each that is consumed here
    rank = 0
    _start = 0        # where the latest pass began
    _taken = 0        # how many it has consumed here
    _resume = False   # the next pass begins at `_start` instead of 0
    _done = False     # the latest pass has come to its end
    _latest = 0       # its number

    def state_dict(self) -> dict[str, Any]:
        """The place in the latest pass, of JSON types only."""
        raise NotImplementedError(f"{type(self).__name__} is a ResumableSampler without state_dict")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass be the rest of the saved one."""
        raise NotImplementedError(f"{type(self).__name__} is a ResumableSampler without load_state_dict")

    @property
    def entropy(self) -> tuple[int, ...] | None:
        """What the random streams of a pass's batches begin from; None leaves it to the loader."""
        return None

    @property
    def start(self) -> int:
        """Where in the pass the latest iterator began: how many samples were consumed before."""
        return self._start

    @property
    def consumed(self) -> int:
        """How many samples of the pass have been consumed, by all replicas together."""
        return self._total if self._done else min(self._start + self._taken * self.num_replicas, self._total)

    @property
    def _total(self) -> int:
        raise NotImplementedError

    def _rest(self, consumed: int) -> Sequence[int] | np.ndarray:
        raise NotImplementedError

    def mark(self, taken: int, done: bool = False) -> None:
        """Say how many samples of the latest pass count as consumed here, and whether it is over."""
        self._taken, self._done = taken, done

    def __iter__(self) -> Iterator[int]:
        return (index for index, in self.batches(1))

    def batches(self, size: int) -> Iterator[list[int]]:
        """Begin a pass whose indices come in lists of `size`, the last of which may be shorter."""
        if not self._resume:
            self._start = 0
            self._begin()
        self._resume = False
        self.mark(0)
        self._latest += 1
        return self._count(self._rest(self._start), size, self._latest)

    def _begin(self) -> None:
        """A whole new pass begins."""

    def _count(self, rest: Sequence[int] | np.ndarray, size: int, which: int) -> Iterator[list[int]]:
        whole = max(1, _BLOCK // size) * size
        for begin in range(0, len(rest), whole):  # a list of all indices would take several times their memory
            block = rest[begin:begin + whole]
            found = block.tolist() if isinstance(block, np.ndarray) else list(block)
            for first in range(0, len(found), size):
                batch = found[first:first + size]
                if self._latest == which:
                    self._taken = begin + first + len(batch)
                yield batch
        if self._latest == which:
            self.mark(len(rest), done=True)

    def _load(self, what: str, state: Any) -> None:
        """Take `consumed` from a state, if its length is that of this sampler."""
        require_state(what, state, {"consumed": int, "length": int})
        if state["length"] != self._total:
            raise ValueError(f"{what} state: it is a place among {state['length']} samples, and here are {self._total}")
        if state["consumed"] > self._total:
            raise ValueError(f"{what} state: {state['consumed']} of {self._total} samples cannot be consumed")
        self._start, self._taken, self._done, self._resume = int(state["consumed"]), 0, False, True
