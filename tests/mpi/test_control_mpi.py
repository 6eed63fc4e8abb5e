"""Real ranks: what they tell each other, gradients read across processes, and clips kept back."""

from __future__ import annotations

import math
import os
import signal
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim
from distgrad.distributed import DataParallel, Join, ZeroRedundancyOptimizer, stop_on_signals, world
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed.models import batch, flat, parameters_of, wide

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]


def train(sharded: bool) -> list[np.ndarray]:
    """Six steps; gradients read before and after the clip, and after a second backward."""
    comm = world()
    distgrad.manual_seed(1)
    model = DataParallel(wide(), bucket_bytes=1 << 15)
    assert model.transport == "shared"
    optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.01) if sharded else \
        optim.Adam(model.parameters(), lr=0.01)
    found = []
    for step in range(6):
        for part in range(1 + step % 2):
            x, y = batch("wide", comm.rank, comm.size, 2 * step + part)
            nn.functional.cross_entropy(model(x.float()), y).backward()
        found += parameters_of(model, grad=True)[:1]
        found.append(clip_grad_norm_(model.parameters(), 0.01).numpy())
        if step == 3:
            found.append(clip_grad_norm_(model.parameters(), 0.005, 3.0).numpy())
        found += parameters_of(model, grad=True)
        optimizer.step()
        found += [model.full_grad(p).numpy() for p in model.parameters()]
        found += parameters_of(model)
        optimizer.zero_grad()
    comm.barrier()
    return found


def test_sharded_gradients_are_those_of_replicated_ones() -> None:
    for mine, theirs in zip(train(True), train(False), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_signal_to_one_rank_stops_all_after_the_same_step() -> None:
    comm = world()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    stop_on_signals((signal.SIGUSR2,))
    try:
        model = DataParallel(nn.Linear(3, 2))
        steps = 0
        while not model.stop_requested:
            if comm.rank == comm.size - 1 and steps == 3:
                os.kill(os.getpid(), signal.SIGUSR2)
            model(distgrad.ones(1, 3)).sum().backward()
            steps += 1
        assert steps == 4
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stopping = __import__("distgrad.distributed.stopping", fromlist=["_asked"])
        stopping._asked = False


@pytest.mark.parametrize("policy", ["raise", "skip_step"])
def test_a_nan_on_one_rank_is_everybodys(policy: str) -> None:
    comm = world()
    model = DataParallel(nn.Linear(3, 2), nonfinite=policy)
    loss = (model(distgrad.ones(1, 3)) * (math.nan if comm.rank == 0 else 1.0)).sum()
    if policy == "raise":
        with pytest.raises(RuntimeError, match="not finite"):
            loss.backward()
    else:
        loss.backward()
        assert model.skipped_steps == 1 and model.weight.grad is None
    model.zero_grad()
    model(distgrad.ones(1, 3)).sum().backward()
    assert float(model.weight.grad.sum()) == 6.0


def test_ranks_with_more_and_less_data() -> None:
    comm = world()
    distgrad.manual_seed(0)
    model = DataParallel(nn.Linear(3, 2))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.1)
    rounds = 0

    def update() -> None:
        nonlocal rounds
        rounds += model.weight.grad is not None
        clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()

    def without_data() -> None:
        model.backward(None, weight=0)
        update()

    with Join(model, without_data):
        for step in range(comm.rank * 2):
            x = distgrad.full((1 + step, 3), float(comm.rank))
            model.backward((model(x) ** 2).mean(), weight=len(x))
            update()
    assert rounds == 2 * (comm.size - 1)
    assert len(set(comm.allgather_bytes(flat(model).tobytes()))) == 1
