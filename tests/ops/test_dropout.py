"""Dropout: how much is dropped, what happens to the rest, streams, derivatives, errors."""

from __future__ import annotations

import numpy as np
import pytest

import distgrad as dg
from distgrad.ops.dropout import dropout, feature_dropout

from .neural import check_derivatives, constant, leaf


def test_kept_elements_are_scaled():
    dg.manual_seed(0)
    x = constant(np.ones(20_000), "float32")
    y = dropout(x, 0.25).numpy()
    assert y.dtype == np.float32
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.015


def test_gradient_has_the_same_mask():
    x = leaf(1000)
    y = dropout(x, 0.5)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.where(y.detach().numpy() == 0, 0, 2.0))


def test_a_seed_gives_the_same_mask():
    x = constant(np.ones(100))
    dg.manual_seed(3)
    first, other = dropout(x).numpy(), dropout(x).numpy()
    dg.manual_seed(3)
    np.testing.assert_array_equal(dropout(x).numpy(), first)
    assert (first != other).any()


def test_limits():
    x = leaf(3, 4)
    assert dropout(x, 0.5, training=False) is x
    np.testing.assert_array_equal(dropout(x, 0.0).detach().numpy(), x.detach().numpy())
    y = dropout(x, 1.0)
    np.testing.assert_array_equal(y.detach().numpy(), np.zeros((3, 4)))
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros((3, 4)))


def test_whole_channels():
    y = feature_dropout(constant(np.ones((20, 30, 2, 3))), 0.5).numpy()
    dropped = (y == 0).reshape(600, 6)
    assert (dropped.all(axis=1) | ~dropped.any(axis=1)).all()
    assert 200 < dropped.all(axis=1).sum() < 400


@pytest.mark.parametrize("op", [dropout, feature_dropout])
def test_derivatives(op):
    def fixed(x):
        dg.manual_seed(1)
        return op(x, 0.4) * x

    check_derivatives(fixed, leaf(3, 4))


def test_errors():
    with pytest.raises(ValueError, match=r"1\.5"):
        dropout(leaf(2), 1.5)
    with pytest.raises(RuntimeError, match=r"\(3,\)"):
        feature_dropout(leaf(3))
