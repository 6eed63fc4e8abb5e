"""Training on a CUDA device equals that on the host: `pytest --device cuda tests/gpu`, or standin for cuda."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import cuda, nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, world
from distgrad.nn import functional as F

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cuda', 'standin')",
                                reason="needs a CUDA device: --device cuda")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Sequential(nn.Linear(2 * 3 * 6, 16), nn.GELU(), nn.Linear(16, 5))

    def forward(self, x: Any) -> Any:
        y = self.norm(self.gru(self.lstm(self.embedding(x))[0])[0])
        y = (y + self.attention(y, y, y)[0])[:, None]
        return self.head(self.conv(y).relu().flatten(1))


def trained(device: str, kind: Any, shard: bool = False, ranks: int = 1) -> tuple[list[float], dict[str, np.ndarray]]:
    dg.manual_seed(0)
    module = Net().to("cpu").double().to(device)
    model: Any = DataParallel(module) if ranks > 1 else module
    parameters = model.parameters()
    optimizer = ZeroRedundancyOptimizer(parameters, kind, lr=1e-2) if shard else kind(parameters, lr=1e-2)
    losses = []
    for step in range(3):
        stream = np.random.default_rng((step, world().rank if ranks > 1 else 0))
        x = dg.tensor(stream.integers(0, 11, (4, 5)), device=device)
        t = dg.tensor(stream.integers(0, 5, 4), device=device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.cpu().numpy() for name, value in model.state_dict().items()}


def equal(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("kind", [optim.Adam, optim.SGD])
def test_training_of_one_process(kind: Any) -> None:
    equal(trained("cuda", kind), trained("cpu", kind))


@pytest.mark.parametrize("shard", [False, True])
def test_training_of_ranks_that_share_a_device(shard: bool) -> None:
    expected = dg.simulate(2)(lambda rank: trained("cpu", optim.Adam, False, 2))
    for found, one in zip(dg.simulate(2)(lambda rank: trained("cuda", optim.Adam, shard, 2)), expected, strict=True):
        equal(found, one)


def test_dropout_and_its_seed_training() -> None:
    x = dg.ones(1000, device="cuda")
    dg.manual_seed(3)
    a = F.dropout(x, 0.25)
    dg.manual_seed(3)
    b = F.dropout(x, 0.25)
    assert a.tolist() == b.tolist() and 0.2 < (a == 0).float().mean().item() < 0.3


def test_what_cuda_tells_training() -> None:
    assert cuda.is_available() and cuda.device_count() >= 1 and cuda.current_device() == 0
    x = dg.ones(1 << 16, device="cuda")
    cuda.synchronize()
    assert cuda.memory_reserved() >= cuda.memory_allocated() > 0 and str(x.device) == "cuda:0"
    assert cuda.get_device_name()
