"""Compiled elementwise kernels: against the reference in float64 and against the ops' own derivatives."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd import grad
from distgrad.backend import fused
from distgrad.backend.reference import find as reference
from distgrad.ops import pointwise as P

if importlib.util.find_spec("numba") is None:
    pytest.skip("needs numba (the extra 'fast')", allow_module_level=True)

FORWARD = ("erf", "exp", "gelu", "gelu_tanh", "log_sigmoid", "relu", "sigmoid", "silu", "tanh")
ROWS = {"gelu": P._gelu_erf, "gelu_tanh": P._gelu_tanh, "log_sigmoid": P.log_sigmoid, "relu": P.relu,
        "sigmoid": P.sigmoid, "silu": P.silu, "tanh": P.tanh}
SIZES = [2048, 2049, 2079, 5000]  # all above the size from which loops are taken
DTYPES = ["float32", "float64"]
ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 1e-30, 88.7, 89.5, 100.0, -88.0, -104.0, 709.0, 711.0, -745.0,
       -1000.0, 14.0, -14.4, 40.0, -39.5, 1e30, -1e30, 1.0, -1.0, 0.625]


def plain(name, x):
    return getattr(np, name)(x) if name in ("exp", "tanh") else reference(name)(np, x)


def numbers(size, dtype):
    """Of all sizes that activations meet, and a few beyond."""
    rng = np.random.default_rng(size)
    return (rng.standard_normal(size) * rng.choice([0.01, 1, 5, 30], size)).clip(-80, 80).astype(dtype)


def close(found, wanted, scale, dtype, units=4):
    """Within units of the last place of the result, or of `scale` where the result is a difference."""
    assert found.dtype == dtype and found.shape == wanted.shape
    info = np.finfo(dtype)
    off = np.abs(found.astype("float64") - wanted)
    allowed = units * info.eps * (np.abs(wanted) + scale) + 2 * info.tiny
    assert not (off > allowed).any(), f"off by {np.nanmax(off / allowed):.2f} times what is allowed"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FORWARD)
def test_values(name, size, dtype):
    x = numbers(size, dtype)
    kept = x.copy()
    wanted = plain(name, x.astype("float64"))
    close(fused.find(name)(x), wanted, np.abs(x) if "gelu" in name else 0, dtype)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("name", FORWARD)
def test_values_of_small_arrays(name):
    for shape in ((0,), (), (1,), (31,), (3, 11)):
        x = np.asarray(np.random.default_rng(0).standard_normal(shape), "float32")
        np.testing.assert_allclose(fused.find(name)(x), plain(name, x), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
def test_values_that_are_not_finite_or_leave_the_range(name, dtype):
    x = np.resize(np.array(ODD).astype(dtype), 2048)
    np.testing.assert_allclose(fused.find(name)(x), plain(name, x), rtol=1e-5, atol=1e-6 if "gelu" in name else 1e-37)


def test_gelu_keeps_its_digits_below_zero():
    x = np.full(64, -5.0, "float32")
    np.testing.assert_allclose(fused.find("gelu")(x), -5 * 2.8665157187919391e-07, rtol=2e-6)
    assert abs(reference("gelu")(np, x)[0] / (-5 * 2.8665157187919391e-07) - 1) > 1e-3


@pytest.mark.parametrize("name", FORWARD)
def test_orders_of_memory(name):
    x = numbers(4096, "float32").reshape(32, 128)
    wanted = fused.find(name)(x)
    turned = fused.find(name)(x.T)
    assert turned.flags.f_contiguous
    np.testing.assert_array_equal(turned, wanted.T)
    np.testing.assert_allclose(fused.find(name)(x[:, ::2]), wanted[:, ::2], rtol=1e-5, atol=1e-6)
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(fused.find(name)(frozen), wanted)
    shifted = np.zeros(4 * 4096 + 1, "uint8")[1:].view("float32")  # not aligned
    shifted[:] = x.reshape(-1)
    np.testing.assert_allclose(fused.find(name)(shifted), wanted.reshape(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("dtype", ["float16", ">f4"])
def test_other_dtypes_are_the_references(name, dtype):
    x = numbers(4096, "float32").clip(-5, 5).astype(dtype)
    found = fused.find(name)(x)
    np.testing.assert_array_equal(found, plain(name, x))
    assert found.dtype.itemsize == x.dtype.itemsize


def test_complex_numbers_are_the_references():
    x = numbers(4096, "float32").clip(-5, 5).astype("complex64")
    for name in ("exp", "tanh", "sigmoid"):
        np.testing.assert_array_equal(fused.find(name)(x), plain(name, x))


# -- gradients


def kept_by(row, x):
    """What the row's derivative wants: its input or its output."""
    return x if row.names == ("x",) else row(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ROWS)
def test_gradients(name, size, dtype):
    g, x, row = numbers(size + 1, dtype)[1:], numbers(size, dtype), ROWS[name]
    kept = kept_by(row, x)
    found = fused.find(f"{name}_backward")(g, kept)
    wanted = g.astype("float64") * row.d(kept.astype("float64"))
    power = {"gelu_tanh": 3, "gelu": 1, "silu": 1}.get(name, 0)  # of x, in differences
    close(found, wanted, np.abs(g) * (1 + np.abs(x) ** power), dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ROWS)
def test_gradients_of_what_is_not_finite(name):
    kept = np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0], "float32"), 2048)
    g = np.repeat(np.array([np.nan, np.inf, 1.0, 0.0], "float32"), 512)
    with np.errstate(all="ignore"):
        wanted = g * ROWS[name].d(kept)
    found = fused.find(f"{name}_backward")(g, kept)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_gradients_that_are_left_to_the_row(name):
    backward = fused.find(f"{name}_backward")
    x = np.ones((64, 64), "float32")
    assert backward(x, x) is not None
    assert backward(x.T, x.T) is not None
    other = np.asfortranarray(x)
    for g, kept in ((x[:0], x[:0]), (x[:2, :4], x[:2, :4]), (x.astype("float64"), x), (x.astype("float16"),) * 2,
                    (other, x), (x[:, ::2], x[:, ::2]), (x[:32], x), (np.float32(1), np.float32(1))):
        assert backward(g, kept) is None


@pytest.mark.parametrize("shape", [(7, 9), (3, 20, 50)])
@pytest.mark.parametrize("name", [*ROWS, "exp"])
def test_an_op_has_the_gradient_of_its_row(name, shape):
    """Through kernels, and recorded, which goes through the rows."""
    op = ROWS.get(name, P.exp)
    x = dg.tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=True)
    g = dg.tensor(np.random.default_rng(1).standard_normal(shape))
    (fast,) = grad(op(x), [x], g)
    (recorded,) = grad(op(x), [x], g, create_graph=True)
    np.testing.assert_allclose(fast.numpy(), recorded.detach().numpy(), rtol=1e-12, atol=1e-14)
    first, last = (op(dg.tensor(x.detach().numpy() + e)).numpy() for e in (-1e-6, 1e-6))
    np.testing.assert_allclose(fast.numpy(), (last - first) / 2e-6 * g.numpy(), rtol=1e-5, atol=1e-6)


def test_gradients_with_another_order_of_memory():
    x = dg.tensor(np.random.default_rng(0).standard_normal((50, 60)), requires_grad=True)
    (found,) = grad(P.tanh(x).T * dg.tensor(np.ones((60, 50))), [x], dg.tensor(np.ones((60, 50))))
    np.testing.assert_allclose(found.numpy(), 1 - np.tanh(x.detach().numpy()) ** 2, rtol=1e-12)
