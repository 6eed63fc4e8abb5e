"""Compiled sums over leading dimensions, sums at computed places and dropout, against the reference."""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np
import pytest

from distgrad.backend import fused
from distgrad.backend.reference import find as reference

if importlib.util.find_spec("numba") is None:
    pytest.skip("needs numba (the extra 'fast')", allow_module_level=True)

NAMES = ("dropout", "dropout_backward", "index_add", "index_put", "sum_leading")
DTYPES = ["float32", "float64"]
kernel = {name: fused.find(name) for name in NAMES}


def numbers(*shape, dtype="float64", seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def same_bits(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.signbit(a[a == 0]), np.signbit(b[b == 0]))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_the_reference(name):
    assert list(inspect.signature(kernel[name]).parameters) == list(inspect.signature(reference(name)).parameters)[1:]


# -- sums over leading dimensions


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1000, 3), (2048, 1), (1025, 32), (1030, 31), (64, 33), (1, 2100), (3, 1000),
                                   (7, 333), (5, 6, 100), (4, 4), (0, 3), (3, 0), (3000,)])
def test_sums_over_leading_dimensions(shape, dtype):
    x = numbers(*shape, dtype=dtype)
    for count in range(1, len(shape)):
        found, exact = kernel["sum_leading"](x, count), x.astype("longdouble").sum(tuple(range(count)))
        assert found.dtype == dtype and found.shape == shape[count:]
        sizes = np.abs(x).sum(tuple(range(count)))
        assert (np.abs(found - exact) <= 8 * np.finfo(dtype).eps * sizes).all()
    np.testing.assert_allclose(kernel["sum_leading"](x, len(shape)), x.sum(), rtol=1e-5)


def test_sums_of_other_memory_and_dtypes():
    x = numbers(40, 80, dtype="float32")
    np.testing.assert_allclose(kernel["sum_leading"](x.T, 1), x.sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(kernel["sum_leading"](x[:, ::2], 1), x[:, ::2].sum(0), rtol=1e-4, atol=1e-5)
    half = np.full((4096, 2), 1, "float16")  # a sum in float16 would stop at 2048
    found = kernel["sum_leading"](half, 1)
    assert found.dtype == np.float16 and (found == 4096).all()
    x[3, 4] = np.nan
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(kernel["sum_leading"](x, 1))), [4])


def test_a_sum_does_not_depend_on_what_is_beside_it():
    x = numbers(300, 40, dtype="float32")
    np.testing.assert_array_equal(kernel["sum_leading"](x, 1)[:33], kernel["sum_leading"](x[:, :33].copy(), 1))


# -- sums at computed places


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "dim", "count"), [((5,), 0, 9), ((5, 3), 0, 20), ((6, 100), 0, 50), ((4, 32), 0, 0),
                                                     ((2, 5, 40), 1, 9), ((3, 4, 5), 2, 30)])
def test_index_add_has_the_bits_of_the_reference(shape, dim, count, dtype):
    out, index = numbers(*shape, dtype=dtype), np.random.default_rng(0).integers(0, shape[dim], count)
    source = numbers(*shape[:dim], count, *shape[dim + 1:], dtype=dtype, seed=1)
    mine, theirs = out.copy(), out.copy()
    assert kernel["index_add"](mine, dim, index, source) is mine
    same_bits(mine, reference("index_add")(np, theirs, dim, index, source))
    other = out.copy()
    kernel["index_add"](other, dim, index.astype("int32"), np.asfortranarray(source))
    same_bits(other, mine)


@pytest.mark.parametrize("wrong", [5, -6, 2 ** 40])
def test_places_outside_change_nothing_else(wrong):
    out = np.zeros((5, 40))
    with pytest.raises(IndexError):
        kernel["index_add"](out, 0, np.array([0, wrong]), np.ones((2, 40)))


def test_index_add_falls_through():
    for out, source in ((np.zeros((5, 6), "float16"), np.ones((3, 6), "float16")),
                        (np.zeros((5, 6), "int64"), np.ones((3, 6), "int64")), (np.zeros((6, 5)).T, np.ones((3, 6))),
                        (np.zeros((5, 6)), np.ones((3, 6), "float32"))):
        kernel["index_add"](out, 0, np.array([1, 1, 4]), source)
        np.testing.assert_array_equal(out[:, 0], [0, 2, 0, 0, 1])


def test_index_put():
    index = np.random.default_rng(0).integers(-5, 5, (4, 3))
    for out, value in ((numbers(5, 40), numbers(4, 3, 40, seed=1)), (numbers(5, 40), np.float64(2)),
                       (numbers(5), numbers(4, 3, seed=1))):
        mine, theirs = out.copy(), out.copy()
        kernel["index_put"](mine, (index,), value, True)
        reference("index_put")(np, theirs, (index,), value, True)
        same_bits(mine, theirs)
    mine = numbers(5, 40)
    kernel["index_put"](mine, (index, ...), np.float64(1), False)
    assert (mine[index] == 1).all()
    mask = mine[:, 0] == 1
    kernel["index_put"](mine, (mask,), np.float64(1), True)
    assert (mine[mask] == 2).all()


# -- dropout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(10,), (2048,), (3, 700), (5, 6, 77)])
def test_dropout_has_the_bits_of_the_reference(shape, p, dtype):
    x, g = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1)
    x.flat[3], x.flat[5], x.flat[6], x.flat[7] = np.nan, np.inf, -np.inf, -0.0
    noise = np.random.default_rng(0).random(shape, dtype="float32")
    noise.flat[0] = p  # the border belongs to what is kept
    with np.errstate(invalid="ignore"):
        y, mask = kernel["dropout"](x, noise, p)
        wanted, kept = reference("dropout")(np, x, noise, p)
        turned, _ = kernel["dropout"](np.asfortranarray(x), np.asfortranarray(noise), p)
    same_bits(y, wanted)
    same_bits(turned, y)
    same_bits(mask, kept)
    same_bits(kernel["dropout_backward"](g, mask, p), reference("dropout_backward")(np, g, mask, p))


def test_dropout_of_whole_channels_and_of_other_dtypes():
    x, noise = np.ones((64, 64), "float32"), np.random.default_rng(0).random((64, 1), dtype="float32")
    y, mask = kernel["dropout"](x, noise, 0.5)
    np.testing.assert_array_equal(y, np.where(noise >= 0.5, 2, 0) * x)
    np.testing.assert_array_equal(kernel["dropout_backward"](x, mask, 0.5), y)
    half, _ = kernel["dropout"](x.astype("float16"), np.broadcast_to(noise, x.shape), 0.5)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, y)
