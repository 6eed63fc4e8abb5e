"""Compiled normalisations against the reference: rows, groups, channels; parameters or none; what falls through."""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np
import pytest

from distgrad.backend import fused
from distgrad.backend.reference import find as reference

if importlib.util.find_spec("numba") is None:
    pytest.skip("needs numba (the extra 'fast')", allow_module_level=True)

NAMES = ("batch_norm", "normalize", "normalize_backward")
DTYPES = ["float32", "float64"]
kernel = {name: fused.find(name) for name in NAMES}


def numbers(*shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def close(found, wanted, units=32):
    """Within units of the last place of the largest element; None is like None."""
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == b.dtype and a.shape == b.shape
            assert np.abs(a - b).max(initial=0) <= units * np.finfo(b.dtype).eps * np.abs(b).max(initial=0)


def forward_and_backward(x, weight, bias, axes, affine, centered=True):
    arguments = (x, weight, bias, 1e-5, axes, affine, centered)
    found, wanted = kernel["normalize"](*arguments), reference("normalize")(np, *arguments)
    close(found, wanted)
    g = numbers(*x.shape, dtype=x.dtype, seed=5)
    shape = () if weight is None and bias is None else (bias if weight is None else weight).shape
    needs = (True, weight is not None, bias is not None)
    rest = (g, x, *wanted[1:], weight, axes, affine, shape, False)
    gradients = kernel["normalize_backward"](*rest, needs)
    close(gradients, reference("normalize_backward")(np, *rest, needs))
    assert kernel["normalize_backward"](*rest, (False, *needs[1:]))[0] is None
    close(kernel["normalize_backward"](*rest, (True, False, False))[:1], gradients[:1])


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_the_reference(name):
    assert list(inspect.signature(kernel[name]).parameters) == list(inspect.signature(reference(name)).parameters)[1:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("parameters", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize(("shape", "last"), [((3, 5), 1), ((2, 3, 31), 1), ((4, 32), 1), ((2, 5, 33), 2),
                                             ((3, 1500), 1)])
def test_rows(shape, last, parameters, centered, dtype):
    first = len(shape) - last
    weight = numbers(*shape[first:], dtype=dtype, seed=1) if parameters in ("both", "weight") else None
    bias = numbers(*shape[first:], dtype=dtype, seed=2) if parameters in ("both", "bias") else None
    forward_and_backward(numbers(*shape, dtype=dtype), weight, bias, tuple(range(first, len(shape))),
                         (1,) * first + shape[first:], centered)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parameters", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 2, 16), (3, 1, 4, 33), (1, 2, 1, 1100), (2, 3, 2, 5)])
def test_groups(shape, parameters, dtype):
    weight, bias = numbers(2, shape[1] * shape[2], dtype=dtype, seed=1) if parameters else (None, None)
    forward_and_backward(numbers(*shape, dtype=dtype), weight, bias, (2, 3), (1, *shape[1:3], 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parameters", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 16), (2, 5, 6, 7), (3, 2, 1100), (6, 4), (3, 4, 5)])
def test_channels(shape, parameters, training, dtype):
    channels = shape[1]
    x = numbers(*shape, dtype=dtype) + np.asarray(3, dtype)
    weight, bias = numbers(2, channels, dtype=dtype, seed=1) if parameters else (None, None)
    running = np.random.default_rng(0).uniform(0.5, 2, (2, channels)).astype(dtype)
    mine, theirs = running.copy(), running.copy()
    found = kernel["batch_norm"](x, weight, bias, *mine, 1e-5, 0.1, training)
    wanted = reference("batch_norm")(np, x, weight, bias, *theirs, 1e-5, 0.1, training)
    close((*found, mine), (*wanted, theirs))
    assert training == (mine != running).any()
    axes, affine = (0, *range(2, x.ndim)), (1, channels, *(1,) * (x.ndim - 2))
    rest = (numbers(*shape, dtype=dtype, seed=5), x, *wanted[1:], weight, axes, affine, (channels,), not training,
            (True, parameters, parameters))
    close(kernel["normalize_backward"](*rest), reference("normalize_backward")(np, *rest))
    mine *= 7
    close(found[1:2], wanted[1:2])  # what is kept for backward does not move with the running mean


def test_without_running_statistics():
    x = numbers(4, 3, 20)
    close(kernel["batch_norm"](x, None, None, None, None, 1e-5, 0.1, True),
          reference("batch_norm")(np, x, None, None, None, None, 1e-5, 0.1, True))


def test_the_variance_does_not_cancel():
    x = (numbers(8, 256) + 1e4).astype("float32")
    y, _, _ = kernel["normalize"](x, None, None, 1e-5, (1,), (1, 256), True)
    exact = x.astype("float64") - x.astype("float64").mean(1, keepdims=True)
    np.testing.assert_allclose(y, exact / exact.std(1, keepdims=True), atol=3e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(value):
    x = numbers(4, 40, dtype="float32")
    x[1, 3] = value
    with np.errstate(all="ignore"):
        y, mean, rstd = kernel["normalize"](x, None, None, 1e-5, (1,), (1, 40), True)
        wanted = reference("normalize")(np, x, None, None, 1e-5, (1,), (1, 40), True)[0]
        gx, _, _ = kernel["normalize_backward"](np.ones_like(x), x, mean, rstd, None, (1,), (1, 40), (), False,
                                                (True, False, False))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    assert np.isnan(y[1]).all() and np.isnan(gx[1]).all()
    assert np.isfinite(y[[0, 2, 3]]).all() and np.isfinite(gx[[0, 2, 3]]).all()


def test_other_memory_and_other_dtypes():
    x, weight = numbers(40, 6, dtype="float32").T, numbers(40, dtype="float32", seed=1)
    forward_and_backward(x, weight, None, (1,), (1, 40))
    forward_and_backward(x, np.repeat(weight, 2)[::2], None, (1,), (1, 40))
    forward_and_backward(x[::2, ::2], weight[::2], None, (1,), (1, 20))
    forward_and_backward(x[:0], weight, None, (1,), (1, 40))
    half = (x.astype("float16"), weight.astype("float16"), None, 1e-5, (1,), (1, 40), True)
    for a, b in zip(kernel["normalize"](*half), reference("normalize")(np, *half)):
        np.testing.assert_array_equal(a, b)
