"""Datasets and functions that worker processes can be told of: they stand at the top of a module."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import distgrad as dg
from distgrad.data import Dataset, DistributedSampler, IterableDataset, get_worker_info

__all__ = ["AsksForRank", "Broken", "Deadly", "Noisy", "Part", "Pair", "Seen", "Slow", "Stuck", "Texts", "Whole",
           "fail_to_begin", "halve", "odd_object"]


class Pair(NamedTuple):
    x: Any
    y: Any


class Noisy(Dataset[Any]):
    """Sample i is i and two random numbers; later ones are read faster."""

    def __init__(self, n: int, slow: float = 0.0) -> None:
        self.n, self.slow = n, slow

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[int, dg.Tensor]:
        time.sleep(self.slow * (self.n - index))
        return index, dg.rand(2)


class Texts(Dataset[Any]):
    """Samples of every kind that a batch may be made of."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.full((64, 64), index, np.uint8)
        return {"name": f"n{index}", "pair": Pair(index, np.float32(index)), "image": image, "z": complex(index, 1),
                "raw": bytes([index]), "empty": np.zeros((0, 3)), "yes": index > 1}


class Slow(Noisy):
    def __getitem__(self, index: int) -> Any:
        time.sleep(self.slow)
        return index


class Broken(Noisy):
    def __getitem__(self, index: int) -> Any:
        if index == 5:
            raise ZeroDivisionError(f"sample {index} is broken")
        return index


class Deadly(Noisy):
    """Its reader is killed at sample 5."""

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


class Stuck(Noisy):
    def __getitem__(self, index: int) -> Any:
        time.sleep(60 if index == 1 else 0)
        return index


class Seen(Noisy):
    """Who reads: worker, process, rank, and numbers of Python's and numpy's own streams."""

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None and info.dataset is not None
        return [info.id, info.num_workers, info.seed % 2**31, os.getpid(), random.random(), np.random.rand()]


class AsksForRank(Noisy):
    """Each sample is the rank of whoever reads it: the world's, or that of a sampler which was not told."""

    def __init__(self, n: int, whom: str = "world") -> None:
        super().__init__(n)
        self.whom = whom

    def __getitem__(self, index: int) -> Any:
        rank = dg.distributed.get_rank  # loads the module that knows the world
        return rank() if self.whom == "world" else DistributedSampler(1).rank


class Whole(IterableDataset[int]):
    def __init__(self, n: int) -> None:
        self.begin, self.end = 0, n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.begin, self.end))


class Part(Whole):
    """Each worker has every so-many-th of the numbers."""

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(self.begin, self.end)[first::step])


def halve(worker: int) -> None:
    """A worker_init_fn that gives each worker its part of a Whole."""
    info = get_worker_info()
    assert info is not None and info.id == worker
    n = info.dataset.end
    info.dataset.begin, info.dataset.end = (n * i // info.num_workers for i in (worker, worker + 1))


def fail_to_begin(worker: int) -> None:
    raise OSError(2, f"worker {worker} finds nothing")


def odd_object(samples: list[Any]) -> Any:
    return {"what": object()}
