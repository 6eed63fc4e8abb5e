"""A loader's place is part of a checkpoint: in mid-epoch, with batches read ahead, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim, simulate
from distgrad.checkpoint import Checkpointer
from distgrad.data import DataLoader, DistributedSampler, TensorDataset
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer

SAMPLES, BATCH, STEPS, SAVED = 97, 12, 20, 11  # an epoch has 8 steps


def train(rank: int, ranks: int, workers: int, folder: Path) -> tuple[list[list[float]], np.ndarray]:
    """Train to the end from the newest checkpoint, if there is one; what was seen, and the weights."""
    dg.manual_seed(0)
    order = DistributedSampler(SAMPLES, ranks, rank, seed=3, drop_last=True)
    rows = TensorDataset(dg.arange(SAMPLES, dtype=dg.float32).reshape(SAMPLES, 1))
    loader = DataLoader(rows, BATCH // ranks, sampler=order, drop_last=True, num_workers=workers)
    model = DataParallel(nn.Linear(1, 3))
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam)
    state = {"model": model, "optimizer": optimizer, "data": loader}
    seen: list[list[float]] = []
    with Checkpointer(folder) as checkpoints:
        found = checkpoints.resume(state)
        step = found.step if found else 0
        while step < STEPS:
            for (x,) in loader:
                step += 1
                seen.append(x.flatten().tolist())
                optimizer.zero_grad()
                (model(x / 100) ** 2).mean().backward()
                optimizer.step()
                if step == SAVED:
                    checkpoints.save(step, state, asynchronous=True)
                if step == STEPS:
                    break
            order.set_epoch(order.epoch + 1)
    return seen, np.concatenate([p.detach().numpy().reshape(-1) for p in model.parameters()])


def together(results: list[Any], begin: int) -> list[list[float]]:
    """What all ranks have seen in each step."""
    return [sorted(sample for seen, _ in results for sample in seen[step])
            for step in range(begin, len(results[0][0]))]


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_neither_lost_nor_doubled(workers: int, tmp_path: Path) -> None:
    whole = simulate(2)(lambda rank: train(rank, 2, workers, tmp_path / "c"))
    again = simulate(2)(lambda rank: train(rank, 2, workers, tmp_path / "c"))
    for (seen, weights), (before, expected) in zip(again, whole, strict=True):
        assert seen == before[SAVED:]
        np.testing.assert_array_equal(weights, expected)
    for ranks in (1, 3, 4):
        other = simulate(ranks)(lambda rank, n=ranks: train(rank, n, workers, tmp_path / "c"))
        assert together(other, 0) == together(whole, SAVED)
        np.testing.assert_allclose(other[0][1], whole[0][1], rtol=1e-4)
    epoch = SAMPLES // BATCH
    seen = [sample for step in together(whole, 0)[:SAVED] for sample in step]
    rest = [sample for step in together(other, 0)[:2 * epoch - SAVED] for sample in step]
    assert len({*seen[epoch * BATCH:], *rest}) == epoch * BATCH == len(seen[epoch * BATCH:]) + len(rest)
