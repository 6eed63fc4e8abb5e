"""Ranks whose parameters lie on devices other than the current ones: everything happens where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer
from tests.gpu import emulator, standin_nccl
from tests.gpu.present import present

pytestmark = [pytest.mark.skipif("config.getoption('--device') != 'cpu'", reason="brings its own device"),
              pytest.mark.skipif(not emulator.available(), reason="needs g++, which compiles the kernels")]


def trained(transport: str, shard: bool) -> Callable[[int], list[np.ndarray]]:
    def body(rank: int) -> list[np.ndarray]:
        place = f"cuda:{3 - rank}"
        dg.manual_seed(0)
        module = nn.Sequential(nn.Linear(70, 70), nn.Tanh(), nn.Linear(70, 3), nn.Linear(3, 3)).to(place)
        model = DataParallel(module, transport=transport, bucket_bytes=1 << 14)
        assert model.transport == ("nccl" if transport == "auto" else transport)
        optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=1e-2) if shard else \
            optim.Adam(model.parameters(), lr=1e-2)
        for step in range(3):
            optimizer.zero_grad()
            x = dg.tensor(np.random.default_rng((rank, step)).standard_normal((2, 70)), dtype=dg.float32).to(place)
            if step == 1:
                model.backward(model(x).square().mean(), weight=rank + 1)
                model.backward(model(x * 2).square().mean() if rank else None, weight=rank)
            else:
                with model.no_sync():
                    model(x).square().mean().backward()
                module[1](module[0](x)).square().mean().backward()  # the last layers have no part in it
                model(x).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
            assert model.full_grad(module[0].weight) is not None
        if shard:
            optimizer.load_state_dict(optimizer.state_dict())
            with optimizer.writable():
                module[3].bias.data.fill_(rank)
        assert {str(p.device) for p in model.parameters()} == {place}
        found = [p.detach().cpu().numpy() for p in model.parameters()]
        model.close()
        return found

    return body


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shard", [False, True])
def test_training_on_devices_that_are_not_current(shard: bool) -> None:
    with present(devices=4), standin_nccl.installed(4):
        found, expected = (dg.simulate(2)(trained(transport, shard)) for transport in ("auto", "shared"))
    for each in (*found, expected[1]):
        for mine, theirs in zip(each, expected[0], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)
