"""Kernels over many arrays at once, against the reference over numpy: `--device cuda` or standin."""

from __future__ import annotations

import math
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import backend
from distgrad.backend.reference import find
from distgrad.flat import GRID
from distgrad.nn import functional as F
from distgrad.nn.utils import clip_grad_norm_

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cuda', 'standin')",
                                reason="needs a CUDA device: --device cuda")
SIZES = [5, 0, 1, 3001, 0, 2048, 2049, 4096, 4097, 1, 31]
MORE = [7] * 64 + [0, 2, 1]  # of two launches
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-11, "atol": 1e-13},
             "float16": {"rtol": 2e-3, "atol": 2e-3}}
every_kind = pytest.mark.parametrize("kind", ["float32", "float64"])
every_size = pytest.mark.parametrize("sizes", [SIZES, MORE, [0, 0], [9000]], ids=["all", "many", "none", "one"])


def gpu() -> Any:
    return backend.get("cuda")


def numbers(kind: str, sizes: list[Any], seed: int) -> list[np.ndarray]:
    return [np.asarray(np.random.default_rng([seed, i]).standard_normal(size)).astype(kind)
            for i, size in enumerate(sizes)]


def there(value: Any) -> Any:
    if isinstance(value, list):
        return [there(part) for part in value]
    return gpu().from_host(value) if isinstance(value, np.ndarray) else value


def equal(found: list[Any], expected: list[np.ndarray], kind: str) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        host = gpu().to_host(mine)
        assert host.dtype == theirs.dtype and host.shape == theirs.shape
        np.testing.assert_allclose(host, theirs, **TOLERANCE[kind])


def factors(kind: str) -> list[tuple[Any, Any]]:
    """As numpy's reference takes it, and as the device does."""
    return [(0.3, 0.3), (1.0, 1.0), (np.array(-0.7, kind), gpu().from_host(np.array(-0.7, kind)))]


@every_kind
@every_size
@pytest.mark.parametrize(("decay", "decoupled", "top"), [(0.0, False, False), (0.1, False, True), (0.1, True, False)])
def test_adam(sizes: list[int], kind: str, decay: float, decoupled: bool, top: bool) -> None:
    for factor, given in factors(kind):
        ps, ms, gs = (numbers(kind, sizes, seed) for seed in range(3))
        vs, tops = ([np.abs(x) for x in numbers(kind, sizes, seed)] for seed in (3, 4))
        mine = [there(each) for each in (ps, ms, vs, tops)]
        plan = gpu().kernels.adam_plan(*mine[:3], mine[3] if top else None)
        reference = find("adam_plan")(np, ps, ms, vs, tops if top else None)
        for step in (1, 2, 7):  # with other gradients each time
            gs = numbers(kind, sizes, 10 + step)
            plan(there(gs), 0.1, 0.9, 0.99, 1e-8, decay, decoupled, step, given)
            reference(gs, 0.1, 0.9, 0.99, 1e-8, decay, decoupled, step, factor)
        for found, expected in zip(mine, (ps, ms, vs, tops), strict=True):
            equal(found, expected, kind)


@every_kind
@every_size
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(sizes: list[int], kind: str, momentum: float, nesterov: bool) -> None:
    for factor, given in factors(kind):
        ps, bufs = numbers(kind, sizes, 0), numbers(kind, sizes, 1)
        mine = there(ps), there(bufs)
        plan = gpu().kernels.sgd_plan(mine[0], mine[1] if momentum else None)
        reference = find("sgd_plan")(np, ps, bufs if momentum else None)
        for first in (True, False):
            gs = numbers(kind, sizes, 10 + first)
            plan(there(gs), 0.1, momentum, 0.2, 0.01, nesterov, first, given)
            reference(gs, 0.1, momentum, 0.2, 0.01, nesterov, first, factor)
        equal(mine[0], ps, kind)
        equal(mine[1], bufs, kind)


def test_a_plan_sees_gradients_that_come_in_the_same_memory() -> None:
    ps, gs = numbers("float32", SIZES, 0), numbers("float32", SIZES, 1)
    mine, given = there(ps), there(gs)
    plan, reference = gpu().kernels.sgd_plan(mine, None), find("sgd_plan")(np, ps, None)
    for _ in range(2):
        plan(given, 0.1, 0.0, 0.0, 0.0, False, False, 1.0)
        reference(gs, 0.1, 0.0, 0.0, 0.0, False, False, 1.0)
        for mine_g, g in zip(given, gs, strict=True):
            mine_g *= 2
            g *= 2
    equal(mine, ps, "float32")


def test_what_the_kernels_do_not_take_is_updated_all_the_same() -> None:
    ps, ms, gs = (numbers("float16", [5, 1], seed) for seed in range(3))
    vs = [np.abs(x) for x in numbers("float16", [5, 1], 3)]
    mine = there(ps), there(ms), there(vs)
    factor = np.array(0.5, "float16")
    gpu().kernels.adam_plan(*mine, None)(there(gs), 0.1, 0.9, 0.99, 1e-3, 0.0, False, 1, there(factor))
    find("adam_plan")(np, ps, ms, vs, None)(gs, 0.1, 0.9, 0.99, 1e-3, 0.0, False, 1, factor)
    for found, expected in zip(mine, (ps, ms, vs), strict=True):
        equal(found, expected, "float16")


SHAPES = [(3, 5), (), (0, 4), (2, 3, 700), (5000,)]


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
@pytest.mark.parametrize("p", [2.0, 1.0, 3.5, math.inf, 0.0])
def test_norms_of_many(kind: str, p: float) -> None:
    for sizes in (SHAPES, MORE, [0, 0], []):
        arrays = numbers(kind, sizes, 0)
        given = there(arrays)
        if sizes is SHAPES:  # and what does not lie whole, or not in its own order
            arrays += [arrays[0].T, arrays[3][:, ::2]]
            given += [given[0].T, given[3][:, ::2]]
        expected = find("norms_of")(np, arrays, p, GRID)
        found = gpu().to_host(gpu().kernels.norms_of(given, p, GRID))
        assert found.dtype == np.float64 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@every_kind
@pytest.mark.parametrize("value", [0.0, -0.0, math.nan, -math.inf])
def test_norms_of_what_is_no_ordinary_number(kind: str, value: float) -> None:
    x = numbers(kind, [5000], 0)[0]
    x[4500] = value
    for p in (2.0, 1.0, 3.5, math.inf, 0.0):
        found = gpu().to_host(gpu().kernels.norm_blocks(there(x), p, GRID))
        np.testing.assert_allclose(found, find("norm_blocks")(np, x, p, GRID), rtol=1e-12)


@every_kind
@pytest.mark.parametrize("p", [2.0, 1.0, 3.5, math.inf, 0.0])
@pytest.mark.parametrize("count", [0, 1, 255, 3000])
def test_the_norm_from_partial_sums(count: int, p: float, kind: str) -> None:
    partials = np.abs(numbers("float64", [count], 0)[0])
    for wrong in (None, math.nan, math.inf):
        if wrong is not None and count:
            partials[count // 2] = wrong
        found = gpu().kernels.norm_from(there(partials), p, np.dtype(kind))
        assert found.shape == () and found.dtype == kind
        np.testing.assert_allclose(gpu().to_host(found), find("norm_from")(np, partials, p, kind), **TOLERANCE[kind])


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "complex64"])
def test_scaling_many(kind: str) -> None:
    for sizes in (SHAPES, MORE):
        for factor, given in factors("float32" if kind == "complex64" else kind):
            arrays = numbers(kind, sizes, 0)
            mine = there(arrays)
            views = [x.T for x in mine] + [mine[3][:, ::2]] if sizes is SHAPES else mine
            gpu().kernels.multiply_(views, given)
            find("multiply_")(np, [x.T for x in arrays] + [arrays[3][:, ::2]] if sizes is SHAPES else arrays, factor)
            for found, expected in zip(mine, arrays, strict=True):
                np.testing.assert_array_equal(gpu().to_host(found), expected)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
@pytest.mark.parametrize("norm", [0.0, 0.5, 3.0, math.inf, math.nan])
def test_the_clip_factor(norm: float, kind: str) -> None:
    for wide in ("float32", "float64"):
        found = gpu().kernels.clip_factor(gpu().from_host(np.array(norm, wide)), 1.0, np.dtype(kind))
        expected = find("clip_factor")(np, np.array(norm, wide), 1.0, kind)
        assert found.shape == () and found.dtype == kind
        np.testing.assert_array_equal(gpu().to_host(found), expected)


def test_clipping_gradients_of_several_dtypes() -> None:
    results = []
    for device in ("cpu", "cuda"):
        parameters = []
        for i, kind in enumerate(("float32", "float64", "float32", "float16", "complex64")):
            p = dg.nn.Parameter(dg.zeros(7, 3, dtype=kind, device=device))
            p.grad = dg.tensor(numbers(kind, [(7, 3)], i)[0], device=device)
            parameters.append(p)
        norm = clip_grad_norm_(parameters, 1.5)
        assert norm.device.type == device and norm.dtype == np.float64
        results.append([norm.cpu().numpy(), *[p.grad.cpu().numpy() for p in parameters]])
    for found, expected in zip(results[1], results[0], strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-3 if found.dtype == np.float16 else 1e-6)


def test_signatures() -> None:
    from distgrad.backend.gpu.kernels import many

    for name in ("clip_factor", "multiply_", "norm_blocks", "norm_from", "norms_of", "adam_plan", "sgd_plan"):
        function = getattr(many, name)
        assert list(signature(function).parameters) == list(signature(find(name)).parameters)[1:]  # without xp


def test_a_target_that_is_no_class_makes_the_loss_nan() -> None:
    x = dg.tensor(numbers("float32", [(4, 3)], 0)[0], device="cuda", requires_grad=True)
    target = dg.tensor([0, 3, 2, -100], device="cuda")
    for loss in (partial(F.cross_entropy, x), partial(F.cross_entropy, x, label_smoothing=0.1),
                 lambda t, **kind: F.nll_loss(F.log_softmax(x, -1), t, **kind)):
        assert math.isnan(loss(target).item())
        assert [math.isnan(value) for value in loss(target, reduction="none").tolist()] == [False, True, False, False]


def test_probabilities_that_are_none_make_the_loss_nan() -> None:
    for wrong in (1.5, -0.5):
        x = dg.tensor([0.5, wrong], device="cuda")
        assert math.isnan(F.binary_cross_entropy(x, dg.tensor([1.0, 0.0], device="cuda")).item())
