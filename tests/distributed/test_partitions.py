"""Exact means: however one batch is dealt out to ranks and micro-steps, its gradients are those of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distgrad
from distgrad import nn, simulate
from distgrad.distributed import DataParallel
from distgrad.nn import functional as F
from tests.distributed.models import parameters_of

# The largest error of a gradient, as a part of its tensor's largest element.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
ROWS = 4  # of the small batch of which every partition is tried

Deal = tuple[tuple[int, ...], ...]  # for each rank the sizes of its micro-steps; it always takes one, if of size 0


def splits(count: int) -> Iterator[tuple[int, ...]]:
    """All ways to cut `count` rows into micro-steps; no rows are one empty micro-step."""
    if count == 0:
        yield (0,)
        return
    for first in range(1, count + 1):
        for rest in splits(count - first) if first < count else [()]:
            yield first, *rest


def deals(count: int, ranks: int) -> Iterator[Deal]:
    """All ways to deal `count` rows, in order, to ranks and their micro-steps."""
    for mine in range(count + 1) if ranks > 1 else [count]:
        for theirs in deals(count - mine, ranks - 1) if ranks > 1 else [()]:
            for mine_split in splits(mine):
                yield mine_split, *theirs


def data(rows: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(rows)
    return stream.standard_normal((rows, 5)).astype(dtype), stream.integers(0, 3, rows)


def make(dtype: str) -> nn.Module:
    distgrad.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def whole(rows: int, dtype: str) -> list[np.ndarray]:
    """The gradients of the mean over the whole batch, in one process."""
    model = make(dtype)
    x, y = data(rows, dtype)
    F.cross_entropy(model(distgrad.tensor(x)), distgrad.tensor(y)).backward()
    return parameters_of(model, grad=True)


def gradients(rank: int, model: Any, deal: Deal, dtype: str, synced: bool) -> list[np.ndarray]:
    """One step in which every rank gets its part of the deal.

    Args:
        synced: reduce after every micro-step, which ranks with fewer of them pad with empty ones; otherwise
            reduce once, at each rank's last.
    """
    rows = sum(itertools.chain(*deal))
    x, y = data(rows, dtype)
    at = sum(itertools.chain(*deal[:rank]))
    mine = deal[rank] + (0,) * (max(map(len, deal)) - len(deal[rank]) if synced else 0)
    model.zero_grad()
    for step, count in enumerate(mine):
        part, at = slice(at, at + count), at + count
        loss = F.cross_entropy(model(distgrad.tensor(x[part])), distgrad.tensor(y[part])) if count else None
        if synced or step == len(mine) - 1:
            model.backward(loss, weight=count)
        else:
            with model.no_sync():
                model.backward(loss, weight=count)
    return parameters_of(model, grad=True)


def check(deals: list[Deal], dtype: str, transport: str, synced: bool) -> None:
    def body(rank: int) -> list[list[np.ndarray]]:
        model = DataParallel(make(dtype), transport=transport)
        found = [gradients(rank, model, deal, dtype, synced) for deal in deals]
        model.close()
        return found

    results = simulate(len(deals[0]))(body)
    for number, deal in enumerate(deals):
        expected = whole(sum(itertools.chain(*deal)), dtype)
        for rank, found in enumerate(results):
            for mine, theirs, first in zip(found[number], expected, results[0][number], strict=True):
                error = np.abs(mine - theirs).max() / np.abs(theirs).max()
                assert error <= TOLERANCE[dtype], f"{deal}: {error} on rank {rank}"
                np.testing.assert_array_equal(mine, first, err_msg=f"{deal}: ranks 0 and {rank} differ")


def test_all_deals_are_there() -> None:
    assert sorted(splits(3)) == [(1, 1, 1), (1, 2), (2, 1), (3,)] and list(splits(0)) == [(0,)]
    assert sorted(deals(2, 2)) == [((0,), (1, 1)), ((0,), (2,)), ((1,), (1,)), ((1, 1), (0,)), ((2,), (0,))]
    assert len(list(deals(ROWS, 3))) == len(set(deals(ROWS, 3))) == 66


@pytest.mark.parametrize("dtype", sorted(TOLERANCE))
@pytest.mark.parametrize("transport", ["shared", "mpi"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_deal_of_a_small_batch(ranks: int, transport: str, dtype: str) -> None:
    every = list(deals(ROWS, ranks))
    check(every[::2], dtype, transport, synced=False)
    check(every[1::2], dtype, transport, synced=True)


@pytest.mark.parametrize("ranks", [4, 5, 6, 7, 8])
def test_many_deals_of_a_small_batch_to_more_ranks(ranks: int) -> None:
    """With more ranks than rows some have nothing to do, at the beginning, in the middle or at the end."""
    every = list(deals(ROWS, ranks))
    sample = [every[i] for i in np.random.default_rng(ranks).choice(len(every), 24, replace=False)]
    for number, (dtype, transport) in enumerate(itertools.product(sorted(TOLERANCE), ["shared", "mpi"])):
        check(sample[6 * number:6 * number + 6], dtype, transport, synced=number in (0, 3))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("synced", [False, True])
def test_every_deal_of_a_small_batch_to_more_ranks(ranks: int, synced: bool) -> None:
    check(list(deals(ROWS, ranks)), "float64", "shared", synced)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.data())
def test_larger_batches(data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, 8), label="ranks")
    deal = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple), min_size=ranks,
                              max_size=ranks).filter(lambda deal: sum(map(sum, deal)) > 0).map(tuple), label="deal")
    check([deal], data.draw(st.sampled_from(sorted(TOLERANCE))), data.draw(st.sampled_from(["shared", "mpi"])),
          data.draw(st.booleans(), label="synced"))


@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_tokens_count_not_rows(transport: str) -> None:
    """Sequences of unequal length: the weight is the number of targets that are not padding; one rank has none."""
    lengths = [5, 1, 0, 3, 7]
    stream = np.random.default_rng(0)
    x = stream.standard_normal((len(lengths), 7, 5))
    y = np.where(np.arange(7) < np.array(lengths)[:, None], stream.integers(0, 3, (len(lengths), 7)), -100)

    def loss(model: Any, part: slice) -> Any:
        scores = model(distgrad.tensor(x[part])).reshape(-1, 3)
        return F.cross_entropy(scores, distgrad.tensor(y[part].reshape(-1)), ignore_index=-100)

    model = make("float64")
    loss(model, slice(None)).backward()
    expected = parameters_of(model, grad=True)

    def body(rank: int) -> list[np.ndarray]:
        model = DataParallel(make("float64"), transport=transport.replace("wire", "mpi"))
        part = (slice(0, 2), slice(2, 3), slice(3, 5))[rank]
        tokens = sum(lengths[part])
        model.backward(loss(model, part) if tokens else None, weight=tokens)
        return parameters_of(model, grad=True)

    for found in simulate(3)(body):
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("transport", ["shared", "wire"])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_of_either_kind_begins_anew(transport: str, set_to_none: bool) -> None:
    """Neither the gradients nor the weights of the step before count any more."""
    def body(rank: int) -> list[np.ndarray]:
        model = DataParallel(make("float64"), transport=transport.replace("wire", "mpi"))
        gradients(rank, model, ((2,), (1, 3)), "float64", synced=False)
        model.zero_grad(set_to_none=set_to_none)
        x, y = data(9, "float64")
        part = (slice(0, 5), slice(5, 9))[rank]
        model.backward(F.cross_entropy(model(distgrad.tensor(x[part])), distgrad.tensor(y[part])), 5 - rank)
        return parameters_of(model, grad=True)

    for found in simulate(2)(body):
        for mine, theirs in zip(found, whole(9, "float64"), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_what_was_thrown_away_does_not_weigh(transport: str) -> None:
    """Micro-steps that were not reduced yet, and whose gradients were forgotten."""
    x, y = data(9, "float64")

    def body(rank: int) -> list[np.ndarray]:
        model = DataParallel(make("float64"), transport=transport.replace("wire", "mpi"))
        part = (slice(0, 5), slice(5, 9))[rank]

        def loss() -> Any:
            return F.cross_entropy(model(distgrad.tensor(x[part])), distgrad.tensor(y[part]))

        with model.no_sync():
            model.backward(loss(), weight=100)
        model.zero_grad()
        model.backward(loss(), weight=5 - rank)
        return parameters_of(model, grad=True)

    for found in simulate(2)(body):
        for mine, theirs in zip(found, whole(9, "float64"), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_a_part_of_the_gradients_forgotten(transport: str) -> None:
    """Plain backwards add for each parameter alone; the gradients of a weighted step share their weights."""
    def body(rank: int) -> list[float]:
        model = DataParallel(nn.ParameterList([nn.Parameter(distgrad.ones(1)) for _ in range(2)]),
                             transport=transport.replace("wire", "mpi"))
        first, second = model.parameters()
        for _ in range(2):
            second.grad = None
            (first + second).sum().backward()
        found = [first.grad.item(), second.grad.item()]
        model.zero_grad()
        model.backward((first + second).sum(), weight=1)
        second.grad = None
        try:
            model.backward((first + 3 * second).sum(), weight=3)
            return [*found, second.grad.item()]
        except RuntimeError as error:
            assert "weight" in str(error)
            return [*found, 3.0]

    assert simulate(2)(body) == [[2.0, 1.0, 3.0]] * 2
