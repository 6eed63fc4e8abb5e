"""A device whose memory is full: who is told, and that training goes on with a smaller batch. Over the stand-in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import cuda, nn, optim
from distgrad.distributed import DataParallel
from distgrad.errors import RankFailedError
from distgrad.graph.engine import current_run
from distgrad.nn import functional as F

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cpu', 'strict')", reason="about hosts alone")
ROOM = 100 << 10  # bytes for the largest array


class Table(nn.Module):
    """Its forward needs little memory, its backward as much as the whole table."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(500, 64)

    def forward(self, rows: Any) -> Any:
        return (self.embedding(rows) ** 2).sum()


def rows(*numbers: int) -> Any:
    return dg.tensor(np.array(numbers), device="cuda")


def test_a_backward_that_finds_no_memory(cupy: Any) -> None:
    model = Table().to("cuda")
    other = nn.Parameter(dg.ones(3, device="cuda"))
    cupy.memory = ROOM
    loss = model(rows(1, 2)) + other.sum()
    flags = dg.is_grad_enabled()
    for _ in range(2):
        with pytest.raises(cuda.OutOfMemoryError, match=r"cuda:0 has no 0\.1 MiB left.*smaller batch"):
            loss.backward(retain_graph=True)
        assert current_run() is None and dg.is_grad_enabled() == flags and model.embedding.weight.grad is None
    other.grad = None
    cupy.memory = 1 << 30
    loss.backward()
    assert other.grad.tolist() == [1.0] * 3
    expected = np.zeros((500, 64), np.float32)
    expected[1:3] = 2 * model.embedding.weight.detach().cpu().numpy()[1:3]
    np.testing.assert_allclose(model.embedding.weight.grad.tolist(), expected)


def test_training_goes_on_with_a_smaller_batch(cupy: Any) -> None:
    model = nn.Linear(16, 16).to("cuda")
    optimizer = optim.SGD(model.parameters(), 0.1)
    cupy.memory = ROOM
    batch, tried = 1 << 12, []
    while True:
        try:
            optimizer.zero_grad()
            F.mse_loss(model(dg.ones(batch, 16, device="cuda")), dg.zeros(batch, 16, device="cuda")).backward()
            optimizer.step()
            break
        except cuda.OutOfMemoryError:
            tried.append(batch)
            batch //= 2
    assert tried == [4096, 2048] and model.weight.grad is not None


def test_one_rank_whose_backward_finds_no_memory(cupy: Any) -> None:
    """It raises there, the others learn which rank and why, and the next step is one of all ranks again."""
    cupy.devices = 2
    cupy.memory = {0: 1 << 30, 1: 1 << 30}

    def trained(rank: int) -> tuple[str, list[Any]]:
        dg.manual_seed(0)
        model = DataParallel(Table().to("cuda"))
        assert model.module.embedding.weight.device.index == rank
        optimizer = optim.Adam(model.parameters(), 0.1)
        said = ""
        if rank:
            cupy.memory[1] = ROOM
        for step in range(3):
            optimizer.zero_grad()
            try:
                model(rows(step, 10 + rank)).backward()
            except RuntimeError as error:
                said = f"{type(error).__name__}: {error}"
                cupy.memory[rank] = 1 << 30  # as if the next batch were a smaller one
                continue
            optimizer.step()
        return said, model.module.embedding.weight.tolist()

    (first, mine), (second, others) = dg.simulate(2)(trained)
    assert mine == others
    assert second.startswith("OutOfMemoryError: cuda:1 has no 0.1 MiB left")
    assert first.startswith(RankFailedError.__name__) and "rank 1" in first and "OutOfMemory" in first
