"""Compiled softmax and cross entropy against the reference: rows of all lengths, what is not finite, refusals."""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np
import pytest

from distgrad.backend import fused
from distgrad.backend.reference import find as reference

if importlib.util.find_spec("numba") is None:
    pytest.skip("needs numba (the extra 'fast')", allow_module_level=True)

NAMES = ("softmax", "log_softmax", "softmax_backward", "log_softmax_backward", "cross_entropy",
         "cross_entropy_backward")
DTYPES = ["float32", "float64"]
SHAPES = [(1,), (1, 1), (3, 5), (4, 31), (2, 32), (5, 33), (2, 3, 100), (7, 1023), (3, 5000)]
kernel = {name: fused.find(name) for name in NAMES}


def numbers(shape, dtype, seed=0, scale=4):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(dtype)


def close(found, wanted, units=8):
    """Within units of the last place of the largest element of a row."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    largest = np.abs(wanted).max(-1, keepdims=True, initial=0) if wanted.ndim else np.abs(wanted)
    assert (np.abs(found - wanted) <= units * np.finfo(wanted.dtype).eps * largest).all()


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_the_reference(name):
    assert list(inspect.signature(kernel[name]).parameters) == list(inspect.signature(reference(name)).parameters)[1:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_forward_and_backward(name, shape, dtype):
    x, g = numbers(shape, dtype), numbers(shape, dtype, 1, 1)
    y = kernel[name](x, len(shape) - 1)
    close(y, reference(name)(np, x, -1))
    np.testing.assert_array_equal(kernel[name](x, -1), y)
    gx, wanted = kernel[f"{name}_backward"](g, y, -1), reference(f"{name}_backward")(np, g, y, -1)
    scale = np.abs(g).sum(-1, keepdims=True) if name == "log_softmax" else np.abs(g).max(-1, keepdims=True)
    assert gx.dtype == wanted.dtype and gx.shape == wanted.shape
    assert (np.abs(gx - wanted) <= 8 * np.finfo(dtype).eps * scale).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 32, 45])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_that_are_not_finite(name, n, dtype):
    x = numbers((8, n), dtype)
    x[1, 2], x[2, 0], x[3, 1] = np.nan, np.inf, -np.inf
    x[4] = -np.inf
    x[5] += 1000
    x[6] *= 1e30
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(kernel[name](x, 1), reference(name)(np, x, 1), rtol=1e-5, atol=1e-37)
        g = numbers((8, n), dtype, 1)
        g[0, 1] = np.nan
        g[7, 0] = np.inf
        y = reference(name)(np, x, 1)
        found, wanted = (kernel[f"{name}_backward"](g, y, 1), reference(f"{name}_backward")(np, g, y, 1))
    assert np.isnan(found[[0, 1, 2, 4]]).all() and np.isfinite(found[[3, 5, 6]]).all()
    np.testing.assert_allclose(found[:7], wanted[:7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_other_memory_other_dimensions_and_other_dtypes(name):
    x, g = numbers((6, 8, 40), "float32"), numbers((6, 8, 40), "float32", 1)
    plain, backward, slow = reference(name), kernel[f"{name}_backward"], reference(f"{name}_backward")
    for array, cotangent in ((x.transpose(2, 0, 1), g.transpose(2, 0, 1)), (x[:, ::2, ::2], g[:, ::2, ::2])):
        y = kernel[name](array, 2)
        close(y, plain(np, array, 2))
        np.testing.assert_allclose(backward(cotangent, y, 2), slow(np, cotangent, y, 2), rtol=1e-4, atol=1e-5)
    for dim in (0, 1):
        np.testing.assert_array_equal(kernel[name](x, dim), plain(np, x, dim))
        np.testing.assert_array_equal(backward(g, x, dim), slow(np, g, x, dim))
    half = x.astype("float16")
    np.testing.assert_array_equal(kernel[name](half, -1), plain(np, half, -1))
    assert kernel[name](x[:0], -1).shape == (0, 8, 40) and kernel[name](x[..., :0], -1).shape == (6, 8, 0)
    assert backward(g[..., :0], x[..., :0], -1).shape == (6, 8, 0)


# -- cross entropy


def scores(rows, classes, dtype):
    x, target = numbers((rows, classes), dtype), np.random.default_rng(classes).integers(0, classes, rows)
    target[::3] = -100
    return x, target


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("rows", "classes"), [(2, 1), (5, 10), (4, 32), (7, 33), (4, 2000)])
def test_cross_entropy(rows, classes, reduction, dtype):
    x, target = scores(rows, classes, dtype)
    rest = (target, None, -100, 0.0, reduction)
    loss, *kept = kernel["cross_entropy"](x, *rest)
    wanted, *plain = reference("cross_entropy")(np, x, *rest)
    assert loss.dtype == dtype and np.shape(loss) == np.shape(wanted)
    np.testing.assert_allclose(loss, wanted, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)
    for a, b in zip(kept, plain):
        assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(kept[2], plain[2])  # classes
    np.testing.assert_array_equal(kept[3], plain[3])  # and weights of rows
    assert not kept[0][::3].any()
    g = numbers(wanted.shape, dtype, 3, 1)
    gx = kernel["cross_entropy_backward"](g, *kept, *rest)
    close(gx, reference("cross_entropy_backward")(np, g, *plain, *rest))
    assert not gx[::3].any() and gx[1].any() == (classes > 1)


def test_cross_entropy_of_many_rows_is_summed_with_more_digits():
    x = np.zeros((200_000, 2), "float32")
    loss, *_ = kernel["cross_entropy"](x, np.zeros(200_000, int), None, -100, 0.0, "mean")
    assert loss == np.float32(np.log(2))


def test_cross_entropy_takes_scores_and_targets_as_they_lie():
    x, target = scores(6, 40, "float64")
    plain = kernel["cross_entropy"](x, target, None, -100, 0.0, "none")
    for other, places in ((np.asfortranarray(x), target.astype("int32")), (np.repeat(x, 2, 1)[:, ::2], target),
                          (x, np.repeat(target, 2)[::2])):
        for a, b in zip(kernel["cross_entropy"](other, places, None, -100, 0.0, "none"), plain):
            np.testing.assert_array_equal(a, b)
    backward = kernel["cross_entropy_backward"]
    g = np.broadcast_to(np.float64(2), 6)
    np.testing.assert_array_equal(backward(g, *plain[1:], target, None, -100, 0.0, "none"),
                                  backward(g.copy(), *plain[1:], target, None, -100, 0.0, "none"))
    scalar = backward(np.float64(2), *plain[1:], target, None, -100, 0.0, "sum")
    np.testing.assert_array_equal(scalar, backward(np.array(2.0), *plain[1:], target, None, -100, 0.0, "sum"))


@pytest.mark.parametrize(("weight", "smoothing"), [(np.linspace(0.5, 2, 5), 0.0), (None, 0.1)])
def test_weights_and_smoothing_are_the_references(weight, smoothing):
    x, target = scores(6, 5, "float64")
    rest = (target, weight, -100, smoothing, "mean")
    found, plain = kernel["cross_entropy"](x, *rest), reference("cross_entropy")(np, x, *rest)
    for a, b in zip(found, plain):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(kernel["cross_entropy_backward"](np.ones(()), *found[1:], *rest),
                                  reference("cross_entropy_backward")(np, np.ones(()), *plain[1:], *rest))


def test_scores_that_are_not_finite():
    x = numbers((5, 40), "float32")
    x[0, 3], x[1], x[2, 5], x[3, 1] = np.nan, np.nan, np.inf, -np.inf
    target = np.array([1, 7, 4, 1, 2])
    rest = (target, None, 7, 0.0, "none")
    with np.errstate(all="ignore"):
        loss, *kept = kernel["cross_entropy"](x, *rest)
        wanted, *plain = reference("cross_entropy")(np, x, *rest)
        gx = kernel["cross_entropy_backward"](np.ones(5, "float32"), *kept, *rest)
        gx_wanted = reference("cross_entropy_backward")(np, np.ones(5, "float32"), *plain, *rest)
        nothing = kernel["cross_entropy"](x, np.full(5, 7), None, 7, 0.0, "mean")[0]
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(gx, gx_wanted, rtol=1e-5, atol=1e-6)
    assert np.isnan(nothing)


@pytest.mark.parametrize("wrong", [-1, 10, 2 ** 40])
def test_a_target_that_is_no_class(wrong):
    x, target = scores(4, 10, "float32")
    target[2] = wrong
    with pytest.raises(IndexError, match=f"target {wrong}.*10 classes"):
        kernel["cross_entropy"](x, target, None, -100, 0.0, "mean")
