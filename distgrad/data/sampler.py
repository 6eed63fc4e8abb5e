"""Samplers: in which order a dataset is read, and how far that has come.

One process is all they know; `distributed.py` has the sampler that shares an order among replicas.
Indices go to the loader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from ..backend.random import Generator, default_generator

__all__ = ["BatchSampler", "RandomSampler", "ResumableSampler", "Sampler", "SequentialSampler", "SubsetRandomSampler",
           "WeightedRandomSampler", "require_count", "require_state"]

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
    entropy: tuple[int, ...] | None = None  # what the random streams of the pass's batches begin from, if it says
    _start = 0        # where the latest pass began
    _taken = 0        # how many it has consumed here
    _resume = False   # the next pass begins at `_start` instead of 0
    _done = False     # the latest pass has come to its end

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
        if not self._resume:
            self._start = 0
            self._begin()
        self._resume = False
        self.mark(0)
        return self._count(self._rest(self._start))

    def _begin(self) -> None:
        """A whole new pass begins."""

    def _count(self, rest: Sequence[int] | np.ndarray) -> Iterator[int]:
        for begin in range(0, len(rest), _BLOCK):  # a list of all indices would take eight times their memory
            block = rest[begin:begin + _BLOCK]
            for place, index in enumerate(block.tolist() if isinstance(block, np.ndarray) else block, begin + 1):
                self.mark(place)
                yield index
        self.mark(len(rest), done=True)

    def _load(self, what: str, state: Any) -> None:
        """Take `consumed` from a state, if its length is that of this sampler."""
        require_state(what, state, {"consumed": int, "length": int})
        if state["length"] != self._total:
            raise ValueError(f"{what} state: it is a place among {state['length']} samples, and here are {self._total}")
        if state["consumed"] > self._total:
            raise ValueError(f"{what} state: {state['consumed']} of {self._total} samples cannot be consumed")
        self._start, self._taken, self._done, self._resume = int(state["consumed"]), 0, False, True


class SequentialSampler(ResumableSampler):
    """0, 1, 2, ..."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    @property
    def _total(self) -> int:
        return len(self.data_source)

    def _rest(self, consumed: int) -> range:
        return range(consumed, self._total)

    def state_dict(self) -> dict[str, int]:
        """How many samples of the pass have been consumed."""
        return {"consumed": self.consumed, "length": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass begin where the saved one was.

        Raises:
            TypeError, KeyError, ValueError: not a state of this sampler, or of data of another length.
        """
        self._load("SequentialSampler", state)

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(ResumableSampler):
    """Indices in random order, another one each time.

    Each pass draws one number, which decides its order.

    Args:
        data_source: what is indexed; its length counts.
        replacement: draw each index independently of the others.
        num_samples: how many to draw; default as many as there are. Without replacement, more than
            that means whole permutations one after the other.
        generator: the stream to draw from; default the context's.

    Raises:
        ValueError: num_samples < 1, or nothing to draw from.
    """

    def __init__(self, data_source: Sized, replacement: bool = False, num_samples: int | None = None,
                 generator: Generator | None = None) -> None:
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement is True or False, got {replacement!r}")
        if num_samples is not None:
            require_count("num_samples", num_samples, 1)
        if not len(data_source):
            raise ValueError("RandomSampler: there is nothing to draw from, the dataset is empty")
        self.data_source = data_source
        self.replacement = replacement
        self.generator = generator
        self.seed = 0  # of the latest pass
        self._num_samples = num_samples

    @property
    def num_samples(self) -> int:
        """How many indices one pass yields."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    @property
    def entropy(self) -> tuple[int, ...]:
        """What the random streams of a pass's batches begin from."""
        return (self.seed,)

    @property
    def _total(self) -> int:
        return self.num_samples

    def _begin(self) -> None:
        self.seed = int((self.generator or default_generator()).numpy.integers(1 << 62))

    def _rest(self, consumed: int) -> np.ndarray:
        stream = np.random.Generator(np.random.PCG64(self.seed))
        n, total = len(self.data_source), self.num_samples
        if self.replacement:
            return stream.integers(0, n, total)[consumed:]
        parts = [stream.permutation(n) for _ in range(-(-total // n))]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts))[consumed:total]

    def state_dict(self) -> dict[str, Any]:
        """The pass's seed, and how many of its samples have been consumed; the generator's place, if it has its own."""
        state: dict[str, Any] = {"seed": self.seed, "consumed": self.consumed, "length": self._total}
        return state if self.generator is None else {**state, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass be the rest of the saved one, and the passes after it the same as well.

        Those after it follow the generator: its own is set to its place here, the context's is to be
        restored by `distgrad.set_rng_state`.

        Raises:
            TypeError, KeyError, ValueError: not a state of this sampler, or of data of another length.
        """
        require_state("RandomSampler", state, {"seed": int} if self.generator is None else
                      {"seed": int, "generator": dict})
        self._load("RandomSampler", state)
        if self.generator is not None:
            self.generator.set_state(state["generator"])
        self.seed = int(state["seed"])

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given indices in random order, another one each time."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        order = (self.generator or default_generator()).numpy.permutation(len(self.indices))
        return (self.indices[place] for place in order.tolist())

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Index i with a probability proportional to weights[i].

    Args:
        weights: one number a sample, not negative, not all 0.
        num_samples: how many to draw.
        replacement: draw each independently of the others; otherwise none comes twice.
        generator: the stream to draw from; default the context's.

    Raises:
        ValueError: weights that are negative, not finite or all 0; more draws without replacement than
            weights above 0.
    """

    def __init__(self, weights: Sequence[float], num_samples: int, replacement: bool = True,
                 generator: Generator | None = None) -> None:
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement is True or False, got {replacement!r}")
        self.num_samples = require_count("num_samples", num_samples, 1)
        self.weights = np.asarray(weights, np.float64)
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all() or (self.weights < 0).any() \
                or not self.weights.any():
            raise ValueError("WeightedRandomSampler: weights are numbers of at least 0, in one dimension, not all 0; "
                             f"got {self.weights}")
        if not replacement and num_samples > np.count_nonzero(self.weights):
            raise ValueError(f"WeightedRandomSampler: {num_samples} different samples cannot be drawn, only "
                             f"{np.count_nonzero(self.weights)} weights are above 0")
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        stream = (self.generator or default_generator()).numpy
        return iter(stream.choice(len(self.weights), self.num_samples, self.replacement,
                                  self.weights / self.weights.sum()).tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of `batch_size` indices of another sampler; `drop_last` leaves out a shorter last one."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(drop_last, bool):
            raise TypeError(f"drop_last is True or False, got {drop_last!r}")
        self.sampler = sampler
        self.batch_size = require_count("batch_size", batch_size, 1)
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        count = len(self.sampler)  # type: ignore[arg-type]
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
