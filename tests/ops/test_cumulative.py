"""Running sums and products, also through zeros."""

from __future__ import annotations

import numpy as np
import pytest

from distgrad._tensor.creation import from_numpy
from distgrad.ops import cumulative as C

from .checking import check, gradient, leaf, numbers

RUNNING = {
    "cumsum": (C.cumsum, lambda x, axis: np.cumsum(x, axis)),
    "cumprod": (C.cumprod, lambda x, axis: np.cumprod(x, axis)),
    "logcumsumexp": (C.logcumsumexp, lambda x, axis: np.log(np.cumsum(np.exp(x), axis))),
}


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_values_and_gradients(name: str, dim: int) -> None:
    ours, theirs = RUNNING[name]
    x = numbers(3, 2, 2)
    np.testing.assert_allclose(ours(from_numpy(x), dim).numpy(), theirs(x, dim), rtol=1e-12)
    check(lambda t: ours(t, dim), x)


@pytest.mark.parametrize("x", [[0.0, 2.0, 3.0, 4.0], [2.0, 0.0, 3.0, 4.0], [2.0, 0.0, 0.0, 4.0], [0.0] * 3], ids=str)
def test_cumprod_through_zeros(x: list[float]) -> None:
    check(lambda t: C.cumprod(t, 0), x)


@pytest.mark.parametrize("name", RUNNING)
def test_small_and_empty(name: str) -> None:
    ours, _ = RUNNING[name]
    assert ours(leaf(3.0), 0).item() == 3
    assert gradient(lambda t: ours(t, 0), 3.0) == 1
    assert gradient(lambda t: ours(t, 0), [3.0]).tolist() == [1]
    assert gradient(lambda t: ours(t, 1), np.zeros((2, 0))).shape == (2, 0)
    with pytest.raises(IndexError, match="outside"):
        ours(leaf([3.0]), 1)


def test_dtypes() -> None:
    assert C.cumsum(from_numpy(np.array([True, True])), 0).numpy().tolist() == [1, 2]
    assert C.cumprod(from_numpy(np.array([2, 3], np.int16)), 0).dtype == np.int64
    assert C.cumsum(from_numpy(np.array([2, 3])), 0, dtype="float32").dtype == np.float32


def test_logcumsumexp_does_not_overflow() -> None:
    x = np.array([1000.0, 1000.0, -1000.0])
    np.testing.assert_allclose(C.logcumsumexp(from_numpy(x), 0).numpy(), 1000 + np.log([1, 2, 2]))
    np.testing.assert_allclose(gradient(lambda t: C.logcumsumexp(t, 0), x), [1 + 1 / 2 + 1 / 2, 1, 0])
    with pytest.raises(NotImplementedError, match="floating"):
        C.logcumsumexp(from_numpy(np.array([1, 2])), 0)
