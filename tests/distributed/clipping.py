"""A model of three grid blocks with reduced gradients, on any number of ranks; what clipping is tried on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.distributed import DataParallel

BATCH = 24  # rows of a batch that 1, 2, 3 and 8 ranks share equally
RANKS = [1, 2, 3, 8]
POWERS = [1.0, 2.0, 3.0, math.inf, 0.0]

on_ranks = pytest.mark.parametrize("ranks", RANKS)
over = pytest.mark.parametrize("transport", ["shared", "wire"])  # a test id "mpi" would be skipped by pytest-mpi


def make(dtype: str = "float64") -> nn.Module:
    """Three grid blocks, with a border in the middle of the first matrix; a last layer that is never used."""
    distgrad.manual_seed(2)
    return nn.ModuleList([nn.Linear(70, 140), nn.Linear(140, 3), nn.Linear(3, 3)]).to(dtype)


def rows(dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(0).standard_normal((BATCH, 70)).astype(dtype)


def loss(layers: Any, x: np.ndarray) -> Any:
    return layers[1](layers[0](distgrad.tensor(x)).relu()).square().mean()


def single(dtype: str = "float64") -> np.ndarray:
    """The gradients of one process on the whole batch."""
    model = make(dtype)
    loss(model, rows(dtype)).backward()
    return vector(model)


def vector(model: Any) -> np.ndarray:
    return np.concatenate([p.grad.numpy().ravel() for p in model.parameters() if p.grad is not None])


def reduced(rank: int, ranks: int, transport: str = "shared", dtype: str = "float64", spoil: float = 0.0) -> Any:
    """A model with reduced gradients; the last rank spoils one element of the second layer's."""
    model = DataParallel(make(dtype), transport=transport.replace("wire", "mpi"), bucket_bytes=1)
    backward(model, rank, ranks, spoil)
    return model


def backward(model: Any, rank: int, ranks: int, spoil: float = 0.0) -> None:
    dtype = str(next(iter(model.parameters())).array.dtype)
    found = loss(model.module, np.split(rows(dtype), ranks)[rank])
    if spoil and rank == ranks - 1:
        found = found + model.module[1].weight[1, 7] * spoil
    found.backward()


def same_bits(results: list[Any]) -> None:
    for found in results[1:]:
        for mine, first in zip(found, results[0], strict=True):
            assert np.asarray(mine).tobytes() == np.asarray(first).tobytes()
