"""Clipping over ranks: the norm is that of one process, the same bits everywhere, whatever the gradients are."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim, simulate
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed.clipping import POWERS, backward, make, on_ranks, over, reduced, same_bits, single, vector
from tests.distributed.models import flat, parameters_of


@on_ranks
@over
def test_the_norm_is_that_of_one_process(ranks: int, transport: str) -> None:
    """Not sqrt(ranks) times it, as where replicated gradients are summed over ranks once more."""
    def body(rank: int) -> list[np.ndarray]:
        model = reduced(rank, ranks, transport)
        found = []
        for p in POWERS:
            model.zero_grad()
            backward(model, rank, ranks)
            norm = clip_grad_norm_(model.parameters(), 0.01, norm_type=p)
            assert model.module[2].weight.grad is None and norm.shape == () and norm.dtype == distgrad.float64
            found += [norm.numpy().copy(), vector(model)]
        model.close()
        return found

    results = simulate(ranks)(body)
    same_bits(results)
    expected = single()
    for number, p in enumerate(POWERS):
        norm, clipped = results[0][2 * number:2 * number + 2]
        assert norm == pytest.approx(np.linalg.norm(expected, p), rel=1e-12)
        assert norm > 0.01, "clipping was not vacuous"
        np.testing.assert_allclose(clipped, expected * (0.01 / (norm + 1e-6)), rtol=1e-10, atol=1e-18)


@over
def test_equal_gradients_have_the_norm_of_one_of_them(transport: str) -> None:
    def body(rank: int) -> Any:
        model = reduced(0, 1, transport)
        return clip_grad_norm_(model.parameters(), 1.0).numpy()

    (alone,) = simulate(1)(body)
    for ranks in (2, 8):  # sums of 2 and 8 equal numbers and their means are exact
        assert simulate(ranks)(body) == [alone] * ranks


@on_ranks
@over
@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_and_inf_on_one_rank(ranks: int, transport: str) -> None:
    def body(rank: int) -> list[Any]:
        found: list[Any] = []
        model = DataParallel(make(), transport=transport.replace("wire", "mpi"), bucket_bytes=1)
        for p, spoil in itertools.product(POWERS[:4], (math.nan, math.inf)):
            model.zero_grad()
            backward(model, rank, ranks, spoil)
            before = vector(model)
            with pytest.raises(RuntimeError, match="nan" if math.isnan(spoil) else "inf"):
                clip_grad_norm_(model.parameters(), 1.0, norm_type=p, error_if_nonfinite=True)
            assert vector(model).tobytes() == before.tobytes(), "what cannot be clipped is left alone"
            norm = clip_grad_norm_(model.parameters(), 1.0, norm_type=p)
            found += [norm.item(), vector(model), model.module[1].weight.grad[1, 7].item()]
        model.close()
        return found

    results = simulate(ranks)(body)
    same_bits(results)
    for first in range(0, len(results[0]), 6):
        nan, all_nan, _, inf, zeros, spoiled = results[0][first:first + 6]
        assert math.isnan(nan) and np.isnan(all_nan).all()
        assert inf == math.inf and math.isnan(spoiled)
        assert np.isnan(zeros).sum() == 1 and (zeros[~np.isnan(zeros)] == 0).all()


@on_ranks
@over
def test_where_there_is_no_gradient_at_all(ranks: int, transport: str) -> None:
    def body(rank: int) -> list[float]:
        model = DataParallel(make(), transport=transport.replace("wire", "mpi"))
        found = [clip_grad_norm_(model.parameters(), 1.0, norm_type=p).item() for p in POWERS]
        backward(model, rank, ranks)
        model.zero_grad()
        found += [clip_grad_norm_(model.parameters(), 1.0, norm_type=p, error_if_nonfinite=True).item() for p in POWERS]
        found.append(clip_grad_norm_([], 1.0).item())
        assert all(p.grad is None for p in model.parameters())
        model.close()
        return found

    assert simulate(ranks)(body) == [[0.0] * 11] * ranks


@on_ranks
@over
def test_the_largest_norm_may_be_0_or_inf(ranks: int, transport: str) -> None:
    def body(rank: int) -> list[np.ndarray]:
        model = reduced(rank, ranks, transport)
        before = vector(model)
        norm = clip_grad_norm_(model.parameters(), math.inf).numpy().copy()
        assert vector(model).tobytes() == before.tobytes()
        again = clip_grad_norm_(model.parameters(), 0.0)
        assert again.numpy() == norm and not vector(model).any()
        return [norm, clip_grad_norm_(model.parameters(), 0.0).numpy().copy()]

    results = simulate(ranks)(body)
    same_bits(results)
    assert results[0][0] == pytest.approx(np.linalg.norm(single())) and results[0][1] == 0


@on_ranks
@over
def test_a_part_of_the_parameters_alone(ranks: int, transport: str) -> None:
    """Also parts one after the other, each by itself, as two optimizers would have it."""
    def body(rank: int) -> list[np.ndarray]:
        model = reduced(rank, ranks, transport)
        first, second = model.module[0], model.module[1]
        rest = parameters_of(first, grad=True)
        norm = clip_grad_norm_(second.parameters(), 0.01).numpy().copy()
        for mine, before in zip(parameters_of(first, grad=True), rest, strict=True):
            np.testing.assert_array_equal(mine, before)
        other = clip_grad_norm_(first.parameters(), 0.02, norm_type=1.0).numpy().copy()
        return [norm, other, vector(model)]

    results = simulate(ranks)(body)
    same_bits(results)
    norm, other, clipped = results[0]
    expected = single()
    border = 70 * 140 + 140
    assert norm == pytest.approx(np.linalg.norm(expected[border:]), rel=1e-12)
    assert other == pytest.approx(np.abs(expected[:border]).sum(), rel=1e-12)
    np.testing.assert_allclose(clipped[border:], expected[border:] * (0.01 / (norm + 1e-6)), rtol=1e-10)
    np.testing.assert_allclose(clipped[:border], expected[:border] * (0.02 / (other + 1e-6)), rtol=1e-10, atol=1e-18)


@on_ranks
@over
def test_several_calls_in_a_row(ranks: int, transport: str) -> None:
    """Each call sees what the one before has left, also when nobody has looked at the gradients in between."""
    limits = [0.02, 0.01, 0.5, 0.003]

    def body(rank: int) -> list[np.ndarray]:
        model = reduced(rank, ranks, transport)
        norms = [clip_grad_norm_(model.parameters(), limit).numpy().copy() for limit in limits]
        return [*norms, clip_grad_norm_(model.parameters(), 1.0, norm_type=math.inf).numpy().copy(), vector(model)]

    results = simulate(ranks)(body)
    same_bits(results)
    *norms, largest, clipped = results[0]
    expected = single()
    norm = np.linalg.norm(expected)
    for found, limit in zip(norms, limits, strict=True):
        assert found == pytest.approx(norm, rel=1e-9)
        factor = min(1.0, limit / (norm + 1e-6))
        norm, expected = norm * factor, expected * factor
    assert largest == pytest.approx(np.abs(expected).max(), rel=1e-9)
    np.testing.assert_allclose(clipped, expected, rtol=1e-9, atol=1e-18)


@on_ranks
@over
def test_float16_gradients(ranks: int, transport: str) -> None:
    """Summed and squared in wider numbers: 10,000 elements of 3,000 have a norm that float16 does not hold."""
    def body(rank: int) -> list[np.ndarray]:
        model = DataParallel(nn.Linear(100, 100, bias=False).half(), transport=transport.replace("wire", "mpi"))
        model(distgrad.full((1, 100), 3000.0).half()).sum().backward()
        norm = clip_grad_norm_(model.parameters(), 1000.0)
        assert norm.dtype == distgrad.float32 and model.weight.grad.dtype == distgrad.float16
        return [norm.numpy().copy(), vector(model)]

    results = simulate(ranks)(body)
    same_bits(results)
    assert results[0][0] == np.float32(300_000)
    np.testing.assert_array_equal(results[0][1], np.float16(10))


@over
def test_float16_means_do_not_overflow_on_the_way(transport: str) -> None:
    """The sum over ranks is larger than float16 holds, their mean is not."""
    def body(rank: int) -> list[np.ndarray]:
        model = DataParallel(nn.Linear(30, 1, bias=False).half(), transport=transport.replace("wire", "mpi"))
        x = distgrad.full((1, 30), 40_000.0).half()
        model(x).sum().backward()
        plain = vector(model)
        model.zero_grad()
        model.backward(model(x).sum(), weight=1)
        return [plain, vector(model)]

    for plain, weighted in simulate(3)(body):
        np.testing.assert_array_equal(plain, np.float16(40_000))
        np.testing.assert_array_equal(weighted, np.float16(40_000))


@on_ranks
@over
def test_parameters_of_several_dtypes_have_one_norm(ranks: int, transport: str) -> None:
    kinds = ["float16", "float32", "float64"]

    def body(rank: int) -> list[np.ndarray]:
        model = DataParallel(nn.ModuleList([nn.Linear(90, 60, bias=False).to(kind) for kind in kinds]),
                             transport=transport.replace("wire", "mpi"))
        for layer, kind in zip(model.module, kinds, strict=True):
            layer(distgrad.full((1, 90), float(rank + 1)).to(kind)).sum().double().backward()
        norm = clip_grad_norm_(model.parameters(), 1.0)
        assert norm.dtype == distgrad.float64
        return [norm.numpy().copy(), *parameters_of(model, grad=True)]

    results = simulate(ranks)(body)
    same_bits(results)
    mean = (ranks + 1) / 2
    norm = mean * math.sqrt(3 * 90 * 60)
    assert results[0][0] == pytest.approx(norm, rel=1e-6)
    for found, tolerance in zip(results[0][1:], (1e-3, 1e-6, 1e-6), strict=True):
        np.testing.assert_allclose(found, mean / norm, rtol=tolerance)


@on_ranks
@over
@pytest.mark.filterwarnings("ignore:invalid value")
def test_sharded_gradients_have_the_same_norms(ranks: int, transport: str) -> None:
    """Any power, parts, calls in a row and NaN: the bits of an ordinary optimizer, in norms and in parameters."""
    def body(rank: int, sharded: bool) -> list[np.ndarray]:
        model = DataParallel(make("float32"), transport=transport.replace("wire", "mpi"), bucket_bytes=1 << 14)
        optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=1e-2) if sharded else \
            optim.Adam(model.parameters(), lr=1e-2)
        found = []

        def step(*clips: tuple[Any, float, float], spoil: float = 0.0) -> None:
            optimizer.zero_grad()
            backward(model, rank, ranks, spoil)
            for part, limit, p in clips:
                found.append(clip_grad_norm_(part.parameters(), limit, norm_type=p).numpy().copy())
            optimizer.step()
            found.append(flat(model))

        for p in POWERS:
            step((model, 0.01, p))
        step((model.module[1], 0.01, 2.0), (model.module[0], 0.02, 1.0), (model, 0.015, 2.0), (model, 1.0, math.inf))
        with pytest.raises(RuntimeError, match="nan"):
            optimizer.zero_grad()
            backward(model, rank, ranks, math.nan)
            clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        step((model, 1.0, 2.0))
        step((model, 1.0, 2.0), spoil=math.inf)
        model.close()
        return found

    replicated, sharded = (simulate(ranks)(lambda rank, how=how: body(rank, how)) for how in (False, True))
    same_bits([*replicated, *sharded])
    assert np.isnan(replicated[0][-1]).any() and np.isfinite(replicated[0][-3]).all()


def test_the_bits_do_not_depend_on_buckets_or_on_how_gradients_travel() -> None:
    def body(rank: int, **options: Any) -> list[np.ndarray]:
        distgrad.manual_seed(2)
        model = DataParallel(make("float32"), **options)
        backward(model, rank, 3)
        norms = [clip_grad_norm_(model.parameters(), 1e30, norm_type=p).numpy().copy() for p in POWERS]
        return [*norms, flat(model.module[0], grad=True)]

    first, *others = [simulate(3)(lambda rank, o=o: body(rank, **o)) for o in (
        {"transport": "shared", "bucket_bytes": 1}, {"transport": "mpi", "bucket_bytes": 1 << 15},
        {"transport": "shared", "bucket_bytes": 1 << 30, "overlap": False}, {"transport": "mpi", "overlap": False})]
    for other in others:
        same_bits([*first, *other])
