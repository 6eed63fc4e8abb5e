"""Samplers: in which order a dataset is read, and how far that has come.

One process is all they know; `distributed.py` has the sampler that shares an order among replicas.
Indices go to the loader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any

import numpy as np

from ..backend.random import Generator, default_generator
from .resumable import ResumableSampler, Sampler, require_count, require_state

__all__ = ["BatchSampler", "RandomSampler", "SequentialSampler", "SubsetRandomSampler", "WeightedRandomSampler"]


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
        # The pass begins now, and not with its first batch.
        if isinstance(self.sampler, ResumableSampler) and type(self.sampler).__iter__ is ResumableSampler.__iter__:
            batches = self.sampler.batches(self.batch_size)
        else:
            indices = iter(self.sampler)
            batches = iter(lambda: list(islice(indices, self.batch_size)), [])
        return (batch for batch in batches if len(batch) == self.batch_size or not self.drop_last)

    def __len__(self) -> int:
        count = len(self.sampler)  # type: ignore[arg-type]
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
