"""Samplers: in which order a dataset is read, and which of it one replica reads.

Replicas are two plain numbers, `num_replicas` and `rank`; pass `distributed.get_world_size()` and
`get_rank()`. Indices go to the loader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from ..backend.random import Generator, default_generator

__all__ = ["BatchSampler", "DistributedSampler", "RandomSampler", "Sampler", "SequentialSampler", "require_count"]

T = TypeVar("T", covariant=True)


def require_count(name: str, value: Any, least: int) -> int:
    """`value` if it is an int of at least `least`; TypeError or ValueError naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is a whole number, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} is at least {least}, got {value}")
    return int(value)


class Sampler(Generic[T]):
    """Yields indices, or lists of them as a batch sampler: a subclass defines `__iter__()` and `__len__()`."""

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError(f"{type(self).__name__} is a Sampler without __iter__")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, ..."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """Indices in random order, another one each time.

    Args:
        data_source: what is indexed; its length counts.
        replacement: draw each index independently of the others.
        num_samples: how many to draw; default as many as there are. Without replacement, more than
            that means whole permutations one after the other.
        generator: the stream to draw from; default the context's.

    Raises:
        ValueError: num_samples < 1, or a draw from nothing.
    """

    def __init__(self, data_source: Sized, replacement: bool = False, num_samples: int | None = None,
                 generator: Generator | None = None) -> None:
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement is True or False, got {replacement!r}")
        if num_samples is not None:
            require_count("num_samples", num_samples, 1)
            if not len(data_source):
                raise ValueError(f"RandomSampler: cannot draw {num_samples} samples from an empty dataset")
        self.data_source = data_source
        self.replacement = replacement
        self.generator = generator
        self._num_samples = num_samples

    @property
    def num_samples(self) -> int:
        """How many indices one pass yields."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        stream = (self.generator or default_generator()).numpy
        n, left = len(self.data_source), self.num_samples
        if self.replacement:
            yield from stream.integers(0, n, left).tolist() if left else ()
            return
        while left > 0:
            yield from stream.permutation(n)[:left].tolist()
            left -= n

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


class DistributedSampler(Sampler[int]):
    """The indices that one of several replicas reads: every num_replicas-th, beginning at its rank.

    The order over all replicas depends on the seed and the epoch alone. So with a batch of
    `global_batch // num_replicas` on each replica, the global batches hold the same samples however
    many replicas there are (up to the padding of the last one).

    Args:
        dataset: what is read, or its length.
        num_replicas, rank: how many replicas there are, and which one this is.
        shuffle: a new random order for every epoch; False reads in order.
        seed: the same on all replicas.
        drop_last: leave out up to num_replicas - 1 samples at the end, so that all replicas have the
            same number. Otherwise samples from the beginning are repeated.

    Raises:
        ValueError: a rank outside of [0, num_replicas), or a negative length or seed.
    """

    def __init__(self, dataset: Sized | int, num_replicas: int = 1, rank: int = 0, shuffle: bool = True,
                 seed: int = 0, drop_last: bool = False) -> None:
        self.num_replicas = require_count("num_replicas", num_replicas, 1)
        self.rank = require_count("rank", rank, 0)
        if rank >= num_replicas:
            raise ValueError(f"rank {rank} is not one of {num_replicas} replicas: ranks count from 0")
        self.seed = require_count("seed", seed, 0)
        if isinstance(dataset, int):
            require_count("the length of the dataset", dataset, 0)
        self.dataset = dataset
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: call it before each pass, with the same number on all replicas."""
        self.epoch = require_count("epoch", epoch, 0)

    @property
    def _length(self) -> int:
        return self.dataset if isinstance(self.dataset, int) else len(self.dataset)

    def __len__(self) -> int:
        return self._length // self.num_replicas if self.drop_last else -(-self._length // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        n = self._length
        order = np.arange(n)
        if self.shuffle:  # seed and epoch are mixed, not added: seed 1, epoch 0 is not seed 0, epoch 1
            order = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(n)
        total = len(self) * self.num_replicas
        return iter(np.resize(order, total)[self.rank::self.num_replicas].tolist())
