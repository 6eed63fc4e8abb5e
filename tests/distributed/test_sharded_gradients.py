"""Gradients that are written once, by their owners, and clips that are kept back until somebody reads."""

from __future__ import annotations

import copy
import math
import threading
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, simulate
from distgrad.nn.utils import clip_grad_norm_, clip_grad_value_, get_grad_norms
from tests.distributed.models import batch, parameters_of, wide

pytestmark = pytest.mark.timeout(60)


def build(sharded: bool, ranks: int, **options: Any) -> tuple[Any, Any]:
    distgrad.manual_seed(1)
    model = DataParallel(wide(), bucket_bytes=1 << 15, **options)
    assert model.transport == "shared" or ranks == 1
    if sharded:
        return model, ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1)
    return model, optim.SGD(model.parameters(), lr=0.1)


def backward(model: Any, rank: int, ranks: int, step: int = 0) -> None:
    x, y = batch("wide", rank, ranks, step)
    nn.functional.cross_entropy(model(x.float()), y).backward()


def both(ranks: int, action: Any) -> list[tuple[Any, Any]]:
    """action(model, optimizer, rank) with and without sharding; results of all ranks side by side."""
    def body(rank: int, sharded: bool) -> Any:
        return action(*build(sharded, ranks), rank)

    return list(zip(*(simulate(ranks)(lambda rank, s=s: body(rank, s)) for s in (True, False)), strict=True))


def same(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_reading_gives_the_whole_gradient_clipped_or_not(ranks: int) -> None:
    def action(model: Any, optimizer: Any, rank: int) -> list[Any]:
        backward(model, rank, ranks)
        before = parameters_of(model, grad=True)
        norm = clip_grad_norm_(model.parameters(), 1e-3)
        after = parameters_of(model, grad=True)
        full = [model.full_grad(p).numpy() for p in model.parameters()]
        same(after, full)
        assert not np.array_equal(before[0], after[0])
        optimizer.step()
        return [*before, *after, norm.numpy(), *parameters_of(model)]

    for sharded, replicated in both(ranks, action):
        same(sharded, replicated)


def test_each_mean_is_written_once() -> None:
    def body(rank: int) -> int:
        model, _ = build(True, 3)
        backward(model, rank, 3)
        group = next(iter(model.parameters())).placement.group
        full = group.collect()
        return int((group.flat == full).sum() - (full == 0).sum())

    with pytest.MonkeyPatch.context():
        counts = simulate(3)(body)
    # Where all ranks wrote all means, each count would be the model's size.
    assert sum(counts) < 1.2 * sum(p.numel() for p in wide().parameters())


def test_a_read_gradient_is_a_copy_that_cannot_be_written() -> None:
    def body(rank: int) -> None:
        model, _ = build(True, 2)
        backward(model, rank, 2)
        grad = next(model.parameters()).grad
        with pytest.raises((RuntimeError, ValueError)):
            grad.mul_(2)

    simulate(2)(body)


def test_after_the_step_the_gradient_is_used_up_but_full_grad_has_it() -> None:
    def body(rank: int) -> None:
        model, optimizer = build(True, 2)
        backward(model, rank, 2)
        p = next(model.parameters())
        before = p.grad.numpy()
        optimizer.step()
        with pytest.raises(RuntimeError, match="full_grad"):
            _ = p.grad
        np.testing.assert_array_equal(model.full_grad(p).numpy(), before)
        optimizer.zero_grad()
        assert p.grad is None and model.full_grad(p) is None
        backward(model, rank, 2, 1)
        assert p.grad is not None
        with pytest.raises(ValueError, match="does not belong"):
            model.full_grad(nn.Parameter(distgrad.ones(2)))

    simulate(2)(body)


def test_a_reader_who_comes_too_late_hears_of_it() -> None:
    """Rank 1 has gone on to its next backward: what rank 0 would read there is no mean any more."""
    gone_on, has_read = threading.Event(), threading.Event()

    def body(rank: int) -> None:
        model, _ = build(True, 2)
        backward(model, rank, 2)
        if rank == 1:
            with model.no_sync():
                backward(model, rank, 2, 1)
            gone_on.set()
            assert has_read.wait(30)
        else:
            assert gone_on.wait(30)
            with pytest.raises(RuntimeError, match="too late"):
                _ = next(model.parameters()).grad
            has_read.set()
        model.comm.barrier()

    simulate(2)(body)


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_backwards_add_up_and_norms_follow(ranks: int) -> None:
    def action(model: Any, optimizer: Any, rank: int) -> list[Any]:
        found = []
        for step in range(3):
            backward(model, rank, ranks, 2 * step)
            with model.no_sync():
                backward(model, rank, ranks, 2 * step + 1)
            backward(model, rank, ranks, 2 * step + 2)
            found += [clip_grad_norm_(model.parameters(), limit, p).numpy()
                      for limit, p in ((0.1, 2), (0.05, 1), (0.01, math.inf), (0.005, 3))]
            half = list(model.parameters())[:3]
            found.append(clip_grad_norm_(half, 1e-3).numpy())
            clip_grad_value_(model.parameters(), 1e-4)
            found += [norm.numpy() for norm in get_grad_norms([half, {"params": [next(model.parameters())]}])]
            optimizer.step()
            optimizer.zero_grad(set_to_none=step != 1)
        return [*found, *parameters_of(model)]

    for sharded, replicated in both(ranks, action):
        same(sharded, replicated)


def test_norms_by_group_are_those_of_numpy() -> None:
    def body(rank: int) -> None:
        model, _ = build(False, 2)
        first, *rest = list(model.parameters())
        assert [float(n) for n in get_grad_norms([[first], rest])] == [0, 0]
        backward(model, rank, 2)
        norms = get_grad_norms([[first], rest])
        np.testing.assert_allclose(float(norms[0]), np.linalg.norm(first.grad.numpy()), rtol=1e-6)
        others = math.sqrt(sum((p.grad.numpy() ** 2).sum() for p in rest))
        np.testing.assert_allclose(float(norms[1]), others, rtol=1e-5)

    simulate(2)(body)


def test_a_step_before_the_reduction_is_refused() -> None:
    def body(rank: int) -> None:
        model, optimizer = build(True, 2)
        with model.no_sync():
            backward(model, rank, 2)
        with pytest.raises(RuntimeError, match="not reduced"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="not reduced"):
            model.full_grad(next(model.parameters()))

    simulate(2)(body)


# -- a clip that is kept back


def clipped(hold: bool) -> tuple[list[Any], Any]:
    model, optimizer = build(False, 1)
    backward(model, 0, 1)
    held = [p.grad for p in model.parameters()] if hold else []
    clip_grad_norm_(model.parameters(), 1e-3)
    return held, (model, optimizer)


def test_whoever_held_a_gradient_sees_it_clipped() -> None:
    held, (model, _) = clipped(True)
    same([g.numpy() for g in held], parameters_of(model, grad=True))
    assert math.sqrt(sum(float((g ** 2).sum()) for g in held)) == pytest.approx(1e-3, rel=1e-3)


def test_whoever_looks_later_sees_it_clipped() -> None:
    held, (model, optimizer) = clipped(False)
    assert next(model.parameters()).placement.group.factor != 1
    with_held, (other, other_optimizer) = clipped(True)
    twin = copy.deepcopy(model.module)
    same([p.grad.numpy() for p in twin.parameters()], [g.numpy() for g in with_held])
    optimizer.step()
    other_optimizer.step()
    same(parameters_of(model), parameters_of(other))
    same(parameters_of(model, grad=True), parameters_of(other, grad=True))


def test_a_second_clip_and_a_second_backward_count_the_first_clip() -> None:
    found = []
    for hold in (True, False):
        _, (model, optimizer) = clipped(hold)
        norms = [float(clip_grad_norm_(model.parameters(), 5e-4))]
        backward(model, 0, 1, 1)
        norms.append(float(clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        found.append([np.array(norms), *parameters_of(model)])
    assert found[0][0][0] == pytest.approx(1e-3, rel=1e-3)
    same(*found)


def test_an_assigned_gradient_is_not_clipped_with_the_others() -> None:
    _, (model, _) = clipped(False)
    p = next(model.parameters())
    p.grad = distgrad.ones_like(p)
    assert (p.grad.numpy() == 1).all()
