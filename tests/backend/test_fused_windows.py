"""Compiled convolution and pooling against the reference."""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distgrad.backend import fused
from distgrad.backend.reference import find as reference
from distgrad.ops.pool import _window

if importlib.util.find_spec("numba") is None:
    pytest.skip("needs numba (the extra 'fast')", allow_module_level=True)

NAMES = ("avg_pool2d", "avg_pool2d_backward", "conv2d", "conv2d_grad_input", "conv2d_grad_weight", "max_pool2d",
         "max_pool2d_backward")
DTYPES = ["float32", "float64"]
kernel = {name: fused.find(name) for name in NAMES}


def numbers(*shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_the_reference(name):
    assert list(inspect.signature(kernel[name]).parameters) == list(inspect.signature(reference(name)).parameters)[1:]


# -- convolution: what is compiled (stride 1, eight channels, eight columns, no groups), and what is not

# samples, channels, height, width, outputs, kernel, stride, pads, dilation, groups
CASES = {
    "padded": (3, 32, 14, 14, 64, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "one channel": (2, 1, 28, 28, 32, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "odd": (2, 9, 11, 13, 5, (3, 2), (1, 1), ((0, 1), (2, 0)), (2, 1), 1),
    "wide kernel": (1, 17, 9, 30, 13, (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 2), 1),
    "points": (2, 8, 16, 16, 16, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "more padding than kernel": (2, 8, 20, 20, 4, (3, 3), (1, 1), ((4, 3), (0, 5)), (1, 1), 1),
    "one row": (2, 8, 1, 9, 3, (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 1),
    "narrow": (2, 8, 9, 4, 3, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "stride": (2, 8, 12, 13, 6, (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "groups": (2, 8, 12, 12, 4, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "no samples": (0, 8, 12, 12, 4, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
}


def close(found, name, *arguments, terms):
    """Each element is a sum of so many products, which float64 adds exactly enough to be the truth."""
    exact = reference(name)(np, *[a.astype("float64") if isinstance(a, np.ndarray) else a for a in arguments])
    sizes = reference(name)(np, *[np.abs(a).astype("float64") if isinstance(a, np.ndarray) else a for a in arguments])
    assert found.shape == exact.shape and found.dtype == arguments[0].dtype and found.flags.c_contiguous
    assert (np.abs(found - exact) <= np.finfo(found.dtype).eps * (np.sqrt(terms) + 2) * sizes).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("biased", [False, True])
def test_convolution_and_its_adjoints(case, dtype, biased):
    n, c, h, w, o, kernel_size, *geometry = CASES[case]
    x, weight = numbers(n, c, h, w, dtype=dtype), numbers(o, c // geometry[-1], *kernel_size, dtype=dtype, seed=1)
    bias = numbers(o, dtype=dtype) if biased else None
    y = kernel["conv2d"](x, weight, bias, *geometry)
    close(y, "conv2d", x, weight, bias, *geometry, terms=weight[0].size)
    g = numbers(*y.shape, dtype=dtype, seed=2)
    found = kernel["conv2d_grad_input"](g, weight, (h, w), *geometry)
    close(found, "conv2d_grad_input", g, weight, (h, w), *geometry, terms=weight[:, 0].size)
    found = kernel["conv2d_grad_weight"](g, x, kernel_size, *geometry)
    close(found, "conv2d_grad_weight", g, x, kernel_size, *geometry, terms=max(1, g[:, 0].size))


def test_memory_that_is_not_contiguous():
    x, weight = numbers(2, 10, 12, 8, dtype="float32"), numbers(3, 3, 8, 6, dtype="float32")
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    views = x.transpose(0, 3, 1, 2), weight.transpose(3, 2, 0, 1)
    found = kernel["conv2d"](*views, None, *geometry)
    np.testing.assert_array_equal(found, kernel["conv2d"](*map(np.ascontiguousarray, views), None, *geometry))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_within_its_windows(bad):
    x, weight = numbers(2, 8, 10, 12, dtype="float32"), numbers(5, 8, 3, 3, dtype="float32", seed=1)
    x[1, 3, 4, 11] = bad
    y = kernel["conv2d"](x, weight, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    assert not np.isfinite(y[1, :, 3:6, 10:12]).any()
    y[1, :, 3:6, 10:12] = 0
    assert np.isfinite(y).all()


def test_a_sample_does_not_depend_on_those_beside_it():
    x, weight = numbers(5, 8, 10, 12, dtype="float32"), numbers(7, 8, 3, 3, dtype="float32", seed=1)
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    whole = kernel["conv2d"](x, weight, None, *geometry)
    np.testing.assert_array_equal(whole[2:3], kernel["conv2d"](x[2:3], weight, None, *geometry))
    np.testing.assert_array_equal(whole[:, :2], kernel["conv2d"](x, weight[:2], None, *geometry))


# -- pooling

@settings(max_examples=300, deadline=None)
@given(seed=some.integers(0, 2**32 - 1), kernel_size=some.tuples(some.integers(1, 3), some.integers(1, 3)),
       stride=some.tuples(some.integers(1, 3), some.integers(1, 3)),
       padding=some.tuples(some.integers(0, 1), some.integers(0, 1)),
       dilation=some.tuples(some.integers(1, 2), some.integers(1, 2)), ceil_mode=some.booleans(),
       dtype=some.sampled_from(DTYPES))
def test_maxima_and_their_places_are_those_of_the_reference(seed, kernel_size, stride, padding, dilation, ceil_mode,
                                                            dtype):
    draw = np.random.default_rng(seed)
    x = draw.integers(-3, 4, draw.integers(1, 20, 4) // (8, 6, 1, 1) + 1).astype(dtype)
    x[draw.random(x.shape) < 0.1] = draw.choice([np.nan, np.inf, -np.inf, -0.0])
    try:
        window = _window("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    except RuntimeError:  # does not fit
        return
    (y, where), (most, places) = kernel["max_pool2d"](x, **window), reference("max_pool2d")(np, x, **window)
    np.testing.assert_array_equal(y, most)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(most))
    np.testing.assert_array_equal(where, places)
    if places.min() < 0 or places.max() >= x[0, 0].size:  # a window of padding alone
        return
    g = draw.standard_normal(y.shape).astype(dtype)
    del window["out"]
    np.testing.assert_allclose(kernel["max_pool2d_backward"](g, where, x.shape[2:], **window),
                               reference("max_pool2d_backward")(np, g, where, x.shape[2:], **window),
                               rtol=1e-5 if dtype == "float32" else 1e-13, atol=1e-6 if dtype == "float32" else 1e-14)


@settings(max_examples=200, deadline=None)
@given(seed=some.integers(0, 2**32 - 1), kernel_size=some.tuples(some.integers(1, 4), some.integers(1, 4)),
       stride=some.tuples(some.integers(1, 3), some.integers(1, 3)),
       padding=some.tuples(some.integers(0, 2), some.integers(0, 2)), ceil_mode=some.booleans(),
       include_pad=some.booleans(), divisor=some.sampled_from([None, 3, -2]), dtype=some.sampled_from(DTYPES))
def test_means_have_the_bits_of_the_reference(seed, kernel_size, stride, padding, ceil_mode, include_pad, divisor,
                                              dtype):
    draw = np.random.default_rng(seed)
    x = draw.standard_normal(draw.integers(1, 20, 4) // (8, 6, 1, 1) + 1).astype(dtype)
    x[draw.random(x.shape) < 0.05] = draw.choice([np.nan, np.inf, -0.0])
    try:
        window = _window("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    except RuntimeError:  # does not fit
        return
    del window["dilation"]
    settings_ = {**window, "include_pad": include_pad, "divisor": divisor}
    with np.errstate(all="ignore"):
        means = reference("avg_pool2d")(np, x, **settings_)
        np.testing.assert_array_equal(kernel["avg_pool2d"](x, **settings_), means)
        g = draw.standard_normal(means.shape).astype(dtype)
        np.testing.assert_array_equal(kernel["avg_pool2d_backward"](g, x.shape[2:], **settings_),
                                      reference("avg_pool2d_backward")(np, g, x.shape[2:], **settings_))


@pytest.mark.parametrize("size", [(2, 2), (7, 9), (28, 28), (33, 70)])
def test_pools_of_two_by_two(size):
    x = numbers(3, 2, *size, dtype="float32")
    x[0, 0, 0, 0], x[1, 1, -1, -1] = np.nan, np.inf
    window = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1),
              "out": (size[0] // 2, size[1] // 2)}
    for mine, theirs in zip(kernel["max_pool2d"](x, **window), reference("max_pool2d")(np, x, **window), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_integers_and_float16_go_to_the_reference():
    window = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1), "out": (2, 2)}
    for dtype in ("int32", "float16"):
        y, where = kernel["max_pool2d"](np.arange(16, dtype=dtype).reshape(1, 1, 4, 4), **window)
        assert y.dtype == dtype and y.ravel().tolist() == [5, 7, 13, 15] and where.ravel().tolist() == [5, 7, 13, 15]
