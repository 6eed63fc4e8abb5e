"""Softmax and log-softmax: values, edges, derivatives, errors."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from distgrad.ops.softmax import log_softmax, softmax

from .neural import check_derivatives, constant, leaf

PAIRS = [(softmax, scipy.special.softmax), (log_softmax, scipy.special.log_softmax)]


@pytest.mark.parametrize(("op", "reference"), PAIRS)
@pytest.mark.parametrize(("shape", "dim"), [((3, 5), 1), ((3, 5), 0), ((2, 3, 4), -2), ((4,), 0)])
def test_values_and_derivatives(op, reference, shape, dim):
    x = leaf(*shape)
    np.testing.assert_allclose(op(x, dim).detach().numpy(), reference(x.detach().numpy(), axis=dim), rtol=1e-12)
    check_derivatives(lambda x: op(x, dim), x)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_of_infinities():
    x = constant([[-np.inf, 1.0, 1.0], [-np.inf] * 3, [np.inf, 0.0, 1.0]])
    p, log_p = softmax(x, 1).numpy(), log_softmax(x, 1).numpy()
    np.testing.assert_allclose(p[0], [0, 0.5, 0.5])
    np.testing.assert_allclose(log_p[0], [-np.inf, -np.log(2), -np.log(2)])
    assert np.isnan(p[1:]).all()
    assert np.isnan(log_p[1]).all()


def test_nothing_overflows():
    x = constant([[1000.0, 0.0, -1000.0]])
    np.testing.assert_array_equal(softmax(x, 1).numpy(), [[1, 0, 0]])
    np.testing.assert_array_equal(log_softmax(x, 1).numpy(), [[0, -1000, -2000]])


@pytest.mark.parametrize("op", [softmax, log_softmax])
def test_dtypes_and_shapes(op):
    assert op(constant([1, 2]), 0, dtype="float64").dtype == np.float64
    assert op(constant(np.zeros((2, 0))), 1).shape == (2, 0)
    assert op(constant(3.0), 0).numpy() == (1 if op is softmax else 0)
    many = op(constant(np.zeros(100_000), "float16"), 0)  # a sum in float16 would stop at 2048
    assert many.dtype == np.float16
    expected = 1e-5 if op is softmax else -np.log(1e5)
    np.testing.assert_allclose(many.numpy().astype("float64"), expected, rtol=1e-2)


@pytest.mark.parametrize("op", [softmax, log_softmax])
def test_errors(op):
    with pytest.raises(IndexError, match="dim 2"):
        op(constant(np.zeros((2, 3))), 2)
    with pytest.raises(NotImplementedError, match="int64"):
        op(constant([1, 2]), 0)
