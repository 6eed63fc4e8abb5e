"""Exact means: uneven batches, micro-steps and empty ranks equal one process on the whole batch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, simulate
from distgrad.distributed import DataParallel
from distgrad.errors import RankFailedError
from tests.distributed.models import flat

DTYPES = {"float64": 1e-12, "float32": 1e-5}


def data(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(0)
    return stream.standard_normal((12, 5)).astype(dtype), stream.standard_normal((12, 2)).astype(dtype)


def model_of(dtype: str) -> nn.Module:
    distgrad.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 2)).to(dtype)


def loss_of(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
    return nn.functional.mse_loss(model(distgrad.tensor(x)), distgrad.tensor(y))


def whole_batch(dtype: str) -> np.ndarray:
    model = model_of(dtype)
    loss_of(model, *data(dtype)).backward()
    return flat(model, grad=True)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("transport", ["shared", "wire"])
@pytest.mark.parametrize("cuts", [
    [[12]], [[5, 7]], [[1, 2, 9]], [[12], [0]], [[0], [7, 5], [0, 0]], [[3], [4], [5]], [[1, 1], [4], [6, 0]],
    [[1], [1], [1], [1], [1], [1], [1], [5]], [[2, 3], [0], [3, 4]],
])
def test_any_partition_equals_the_whole_batch(cuts: list[list[int]], dtype: str, transport: str) -> None:
    """cuts[rank] are the sizes of the rank's micro-steps; all but the last are local."""
    x, y = data(dtype)
    bounds = np.cumsum([0, *itertools.chain(*cuts)])
    first = np.cumsum([0, *[len(sizes) for sizes in cuts]])

    def body(rank: int) -> np.ndarray:
        model = DataParallel(model_of(dtype), transport=transport.replace("wire", "mpi"), bucket_bytes=1)
        for step in range(len(cuts[rank])):
            part = slice(*bounds[first[rank] + step:first[rank] + step + 2])
            last = step == len(cuts[rank]) - 1
            loss = loss_of(model, x[part], y[part]) if part.start < part.stop else None
            if last:
                model.backward(loss, weight=part.stop - part.start)
            else:
                with model.no_sync():
                    model.backward(loss, weight=part.stop - part.start)
        found = flat(model, grad=True)
        model.close()
        return found

    expected = whole_batch(dtype)
    results = simulate(len(cuts))(body)
    for found in results:
        np.testing.assert_allclose(found, expected, rtol=0, atol=DTYPES[dtype] * np.abs(expected).max())
        np.testing.assert_array_equal(found, results[0])


@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_successive_synced_calls_average_by_weight(transport: str) -> None:
    x, y = data("float64")

    def body(rank: int) -> np.ndarray:
        model = DataParallel(model_of("float64"), transport=transport.replace("wire", "mpi"))
        for begin, middle, end in ((0, 1, 4), (4, 9, 12)):
            part = slice(begin, middle) if rank == 0 else slice(middle, end)
            model.backward(loss_of(model, x[part], y[part]), weight=part.stop - part.start)
        found = flat(model, grad=True)
        model.close()
        return found

    for found in simulate(2)(body):
        np.testing.assert_allclose(found, whole_batch("float64"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("options", [{"transport": "shared"}, {"transport": "mpi", "overlap": False},
                                     {"transport": "shared", "bucket_bytes": 1}])
def test_ranks_equal_one_rank_on_the_same_micro_batches_bitwise(ranks: int, options: dict[str, Any]) -> None:
    stream = np.random.default_rng(4)
    batches = [stream.standard_normal((3, 5)).astype("f4") for _ in range(ranks)]
    targets = [stream.standard_normal((3, 2)).astype("f4") for _ in range(ranks)]

    def together(rank: int) -> np.ndarray:
        model = DataParallel(model_of("float32"), **options)
        model.backward(loss_of(model, batches[rank], targets[rank]))
        found = flat(model, grad=True)
        model.close()
        return found

    def alone(rank: int) -> np.ndarray:
        model = DataParallel(model_of("float32"))
        for x, y in zip(batches, targets, strict=True):
            model.backward(loss_of(model, x, y), weight=1)
        return flat(model, grad=True)

    (expected,) = simulate(1)(alone)
    for found in simulate(ranks)(together):
        np.testing.assert_array_equal(found, expected)


def test_a_new_step_begins_with_zero_grad() -> None:
    x, y = data("float64")

    def body(rank: int) -> np.ndarray:
        model = DataParallel(model_of("float64"))
        model.backward(loss_of(model, x[:3] * 7, y[:3]), weight=5 + rank)
        model.zero_grad()
        model.backward(loss_of(model, x[6 * rank:6 * rank + 6], y[6 * rank:6 * rank + 6]), weight=6)
        return flat(model, grad=True)

    for found in simulate(2)(body):
        np.testing.assert_allclose(found, whole_batch("float64"), rtol=0, atol=1e-12)


def test_nobody_has_data() -> None:
    def body(rank: int) -> bool:
        model = DataParallel(nn.Linear(2, 1))
        model.backward(None, weight=0)
        return model.weight.grad is None

    assert simulate(2)(body) == [True, True]


@pytest.mark.parametrize(("weight", "kind"), [(-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
                                              ("many", TypeError), (None, TypeError)])
def test_weights_that_are_none(weight: Any, kind: type[Exception]) -> None:
    model = DataParallel(nn.Linear(2, 1))
    with pytest.raises(kind, match="weight"):
        model.backward(model(distgrad.ones(1, 2)).sum(), weight=weight)


def test_mixing_plain_and_weighted_backwards_is_refused() -> None:
    def body(rank: int) -> None:
        model = DataParallel(nn.Linear(2, 1))
        model(distgrad.ones(1, 2)).sum().backward()
        with pytest.raises(RuntimeError, match="mixed"):
            model.backward(model(distgrad.ones(1, 2)).sum())
        model.zero_grad()
        model.backward(model(distgrad.ones(1, 2)).sum())
        with pytest.raises(RuntimeError, match="mixed"):
            model(distgrad.ones(1, 2)).sum().backward()

    simulate(2)(body)


def test_ranks_that_mix_kinds_are_named() -> None:
    def body(rank: int) -> None:
        model = DataParallel(nn.Linear(2, 1))
        loss = model(distgrad.ones(1, 2)).sum()
        with pytest.raises(RankFailedError, match=r"rank \d called"):
            if rank == 1:
                loss.backward()
            else:
                model.backward(loss)

    simulate(3)(body)


def test_a_loss_that_does_not_depend_on_the_model() -> None:
    def body(rank: int) -> str:
        model = DataParallel(nn.Linear(2, 1))
        stranger = distgrad.ones(1, requires_grad=True)
        loss = stranger.sum() if rank == 1 else model(distgrad.ones(1, 2)).sum()
        with pytest.raises(RuntimeError, match="does not depend") as caught:
            model.backward(loss)
        return type(caught.value).__name__

    assert simulate(3)(body) == ["RankFailedError", "RuntimeError", "RankFailedError"]


@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_a_backward_that_raises_on_one_rank_raises_on_all_and_training_goes_on(transport: str) -> None:
    def body(rank: int) -> Any:
        distgrad.manual_seed(0)
        model = DataParallel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), bucket_bytes=1,
                             transport=transport.replace("wire", "mpi"))

        def hook(g: Any) -> None:
            raise KeyError("mine")

        handle = model.module[0].weight.register_hook(hook) if rank == 1 else None
        try:
            model(distgrad.ones(1, 2)).sum().backward()
            raised = ""
        except (KeyError, RankFailedError) as error:
            raised = str(error)
        if handle is not None:
            handle.remove()
        model.zero_grad()
        model(distgrad.full((1, 2), float(rank))).sum().backward()
        return raised, flat(model, grad=True)

    results = simulate(3)(body)
    assert results[1][0] == "'mine'"
    for rank in (0, 2):
        assert "raised on rank 1: KeyError: 'mine'" in results[rank][0]
        np.testing.assert_array_equal(results[rank][1], results[1][1])
    assert results[0][1].any()
