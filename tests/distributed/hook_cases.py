"""What tests of comm hooks share: models whose gradients are given, counted bytes, hooks that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.comm import LocalCommunicator
from distgrad.errors import CollectiveMismatchError
from tests.distributed.models import parameters_of


class Given(nn.Module):
    """Parameters whose gradients are what is put in."""

    def __init__(self, *shapes: tuple[int, ...], dtype: str = "float32") -> None:
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(distgrad.zeros(*shape).to(dtype)) for shape in shapes])

    def forward(self, *gradients: Any) -> Any:
        return sum((p * distgrad.tensor(g)).sum() for p, g in zip(self.parts, gradients, strict=True))


def reduced(model: Any, *gradients: np.ndarray, weight: float | None = None) -> list[np.ndarray]:
    """What one backward with these gradients on this rank leaves."""
    model.zero_grad()
    loss = model(*gradients)
    if weight is None:
        loss.backward()
    else:
        model.backward(loss, weight)
    return parameters_of(model, grad=True)


def drawn(ranks: int, *shapes: tuple[int, ...], seed: int = 0) -> list[list[np.ndarray]]:
    """For each rank a gradient of each shape."""
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(shape).astype("f4") for shape in shapes] for _ in range(ranks)]


def assert_alike(results: list[Any]) -> None:
    for found in results[1:]:
        for mine, theirs in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def low_rank(ranks: int, rank: int, rows: int, cols: int, seed: int, dtype: str = "f4") -> np.ndarray:
    """For each rank a matrix; all have their columns in a space of `rank` dimensions."""
    rng = np.random.default_rng(seed)
    space = rng.standard_normal((rows, rank))
    return (space @ rng.standard_normal((ranks, rank, cols))).astype(dtype)


def count_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes ranks hand to others in each alltoallv and allgatherv."""
    counted: list[int] = []
    scatter, gather = LocalCommunicator._alltoallv, LocalCommunicator._allgatherv

    def alltoallv(self: Any, send: Any, sendcounts: Any, *rest: Any) -> None:
        counted.append((send.size - sendcounts[self.rank]) * send.dtype.itemsize)
        scatter(self, send, sendcounts, *rest)

    def allgatherv(self: Any, send: Any, recv: Any, counts: Any) -> None:
        counted.append(counts[self.rank] * recv.dtype.itemsize * (self.size - 1))
        gather(self, send, recv, counts)

    monkeypatch.setattr(LocalCommunicator, "_alltoallv", alltoallv)
    monkeypatch.setattr(LocalCommunicator, "_allgatherv", allgatherv)
    return counted


def raises(bucket: Any, comm: Any) -> Any:
    raise KeyError("mine")


def raises_late(bucket: Any, comm: Any) -> Any:
    bucket.submit(comm.allreduce, bucket.send, bucket.recv).wait()
    raise KeyError("mine")


def returns_nothing(bucket: Any, comm: Any) -> Any:
    bucket.submit(comm.allreduce, bucket.send, bucket.recv)


def returns_a_number(bucket: Any, comm: Any) -> Any:
    return 3


def job_raises_before(bucket: Any, comm: Any) -> Any:
    def job(mean: bool) -> None:
        raise KeyError("mine")

    return bucket.submit(job)


def job_raises_after(bucket: Any, comm: Any) -> Any:
    def job(mean: bool) -> None:
        comm.allreduce(bucket.send, bucket.recv, mean=mean)
        raise KeyError("mine")

    return bucket.submit(job)


def job_raises_between(bucket: Any, comm: Any) -> Any:
    def job(mean: bool) -> None:
        comm.allreduce(bucket.send, bucket.recv, mean=mean)
        raise KeyError("mine")

    bucket.submit(job)
    return bucket.submit(comm.allreduce, bucket.send, bucket.recv)


def sends_another_shape(bucket: Any, comm: Any) -> Any:
    return bucket.submit(comm.allreduce, bucket.send[:-1], bucket.recv[:-1])


def sends_too_little(bucket: Any, comm: Any) -> Any:
    return bucket.submit(comm.allreduce, bucket.send, bucket.recv[:-1])


def sound(bucket: Any, comm: Any) -> Any:
    first = bucket.submit(comm.allreduce, bucket.send, bucket.recv)
    return first if bucket.index % 2 else bucket.submit(comm.allreduce, bucket.send, bucket.recv)


WRONG = {raises: (KeyError, "mine"), raises_late: (KeyError, "mine"), returns_nothing: (TypeError, "returns a Work"),
         returns_a_number: (TypeError, "returns a Work"), job_raises_before: (KeyError, "mine"),
         job_raises_after: (KeyError, "mine"), job_raises_between: (KeyError, "mine"),
         sends_another_shape: (CollectiveMismatchError, "different collectives|counts differ"),
         sends_too_little: (ValueError, "must be equal")}
