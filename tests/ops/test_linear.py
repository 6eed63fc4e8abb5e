"""The affine map: values for all orientations of the product, derivatives, memory order, errors."""

from __future__ import annotations

import numpy as np
import pytest

from distgrad.ops.linear import linear

from .neural import check_derivatives, constant, first_order, leaf


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 2, 5), (0, 5), (200, 5)])
@pytest.mark.parametrize("out", [1, 4, 300])
def test_values(shape, out):
    x, w, b = leaf(*shape), leaf(out, 5, seed=1), leaf(out, seed=2)
    xn, wn, bn = (t.detach().numpy() for t in (x, w, b))
    np.testing.assert_allclose(linear(x, w, b).detach().numpy(), xn @ wn.T + bn, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(linear(x, w).detach().numpy(), xn @ wn.T, rtol=1e-12, atol=1e-12)
    g = np.random.default_rng((7, 0)).standard_normal((*shape[:-1], out))
    gx, gw, gb = first_order(linear, [x, w, b])
    np.testing.assert_allclose(gx, g @ wn, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gw, g.reshape(-1, out).T @ xn.reshape(-1, 5), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gb, g.reshape(-1, out).sum(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_derivatives(shape, bias):
    check_derivatives(linear, leaf(*shape), leaf(4, 3, seed=1), leaf(4, seed=2) if bias else None)


@pytest.mark.parametrize("batch", [4, 300])
def test_gradient_of_the_weight_is_taken_over(batch):
    w = leaf(20, 10, dtype="float32")
    linear(leaf(batch, 10, seed=1, dtype="float32"), w).sum().backward()
    assert w.grad.array.flags.c_contiguous
    assert w.grad.array.base is None


@pytest.mark.parametrize(("x", "w", "b", "words"), [
    ((3, 5), (4, 4), None, r"\(3, 5\).*\(4, 4\)"),
    ((), (4, 4), None, r"\(\).*\(4, 4\)"),
    ((3, 5), (5,), None, r"\(out, in\)"),
    ((3, 5), (4, 5), (3,), r"bias.*\(3,\)"),
])
def test_shape_errors(x, w, b, words):
    with pytest.raises(RuntimeError, match=words):
        linear(constant(np.zeros(x)), constant(np.zeros(w)), None if b is None else constant(np.zeros(b)))


def test_dtype_error():
    with pytest.raises(RuntimeError, match=r"float32.*weight is float64"):
        linear(constant(np.zeros((1, 2)), "float32"), constant(np.zeros((1, 2))))
