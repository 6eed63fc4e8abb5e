"""What happens to gradients between backward and clipping counts; that somebody looks at them does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import optim, simulate
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer
from distgrad.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_
from tests.distributed.clipping import backward, make, on_ranks, over, reduced, same_bits, single, vector
from tests.distributed.models import flat


def halve_in_place(model: Any) -> None:
    with distgrad.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(0.5)


def halve_data(model: Any) -> None:
    for p in model.parameters():
        if p.grad is not None:
            p.grad.data.mul_(0.5)


def halve_arrays(model: Any) -> None:
    for p in model.parameters():
        if p.grad is not None:
            array = p.grad.numpy()
            array *= 0.5


def assign_halves(model: Any) -> None:
    for p in model.parameters():
        if p.grad is not None:
            p.grad = p.grad * 0.5


def clip_to_half(model: Any) -> None:
    norm = np.linalg.norm(vector(model))
    clip_grads_with_norm_(model.parameters(), norm / 2, distgrad.tensor(norm - 1e-6))


EDITS: list[Callable[[Any], None]] = [halve_in_place, halve_data, halve_arrays, assign_halves, clip_to_half]


@on_ranks
@over
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__.replace("_", " "))
def test_gradients_edited_between_backward_and_clipping(edit: Any, ranks: int, transport: str) -> None:
    def body(rank: int) -> list[np.ndarray]:
        model = reduced(rank, ranks, transport)
        edit(model)
        return [clip_grad_norm_(model.parameters(), 0.01).numpy().copy(), vector(model)]

    results = simulate(ranks)(body)
    same_bits(results)
    norm, clipped = results[0]
    expected = single() / 2
    assert norm == pytest.approx(np.linalg.norm(expected), rel=1e-9)
    np.testing.assert_allclose(clipped, expected * (0.01 / (norm + 1e-6)), rtol=1e-9, atol=1e-18)


@over
@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_looking_at_gradients_on_one_rank_alone(transport: str, sharded: bool) -> None:
    """As rank 0 does that keeps the records: nobody waits for it, and no bit differs."""
    def body(rank: int, looks: bool) -> list[np.ndarray]:
        model = DataParallel(make("float32"), transport=transport.replace("wire", "mpi"), bucket_bytes=1)
        optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.Adam) if sharded else \
            optim.Adam(model.parameters())
        found = []
        for _ in range(3):
            optimizer.zero_grad()
            backward(model, rank, 3)
            if looks and rank == 0:
                found.append(float(np.abs(vector(model)).max()))
            norms = [clip_grad_norm_(model.parameters(), 0.01).numpy().copy()]
            if looks and rank == 0 and not sharded:
                found.append(float(np.abs(vector(model)).max()))
            norms.append(clip_grad_norm_(model.parameters(), 0.005).numpy().copy())
            optimizer.step()
        assert len(found) == (3 * (2 - sharded) if looks and rank == 0 else 0) and all(found)
        return [*norms, flat(model)]

    same_bits([found for looks in (False, True) for found in simulate(3)(lambda rank, looks=looks: body(rank, looks))])


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_gradient_taken_away_or_limited_before_clipping(ranks: int) -> None:
    def body(rank: int) -> list[np.ndarray]:
        model = reduced(rank, ranks)
        model.module[0].weight.grad = None
        first = clip_grad_norm_(model.parameters(), 1e9).numpy().copy()
        clip_grad_value_(model.parameters(), 1e-3)
        return [first, clip_grad_norm_(model.parameters(), 1e9, math.inf).numpy().copy(), vector(model)]

    results = simulate(ranks)(body)
    same_bits(results)
    left = single()[70 * 140:]
    assert results[0][0] == pytest.approx(np.linalg.norm(left), rel=1e-12) and results[0][1] == 1e-3
    np.testing.assert_allclose(results[0][2], np.clip(left, -1e-3, 1e-3), rtol=1e-9)
