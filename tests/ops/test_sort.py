"""Order: sort, argsort, topk, kthvalue, unique."""

from __future__ import annotations

import numpy as np
import pytest

from distgrad._tensor.creation import from_numpy
from distgrad.ops import sort as S

from .checking import check, leaf, numbers


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_sort(dim: int, descending: bool) -> None:
    x = numbers(3, 4)
    values, indices = S.sort(from_numpy(x), dim, descending)
    expected = np.sort(x, dim)
    np.testing.assert_array_equal(values.numpy(), np.flip(expected, dim) if descending else expected)
    np.testing.assert_array_equal(np.take_along_axis(x, indices.numpy(), dim), values.numpy())
    np.testing.assert_array_equal(S.argsort(from_numpy(x), dim, descending).numpy(), indices.numpy())
    check(lambda t: S.sort(t, dim, descending).values, x)


def test_equal_elements_keep_their_order_and_nan_is_largest() -> None:
    t = from_numpy(np.array([2.0, np.nan, 1.0, 2.0]))
    assert S.sort(t).indices.numpy().tolist() == [2, 0, 3, 1]
    assert S.sort(t, descending=True).indices.numpy().tolist() == [1, 0, 3, 2]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("k", "dim"), [(2, 1), (1, 0), (4, -1), (0, 1)])
def test_topk(k: int, dim: int, largest: bool) -> None:
    x = numbers(3, 4)
    values, indices = S.topk(from_numpy(x), k, dim, largest)
    ordered = np.sort(x, dim)
    ordered = np.flip(ordered, dim) if largest else ordered
    np.testing.assert_array_equal(values.numpy(), np.take(ordered, range(k), dim))
    np.testing.assert_array_equal(np.take_along_axis(x, indices.numpy(), dim), values.numpy())
    check(lambda t: S.topk(t, k, dim, largest).values, x, second=k > 0)


def test_kthvalue() -> None:
    x = numbers(3, 4)
    np.testing.assert_array_equal(S.kthvalue(from_numpy(x), 2).values.numpy(), np.sort(x, 1)[:, 1])
    assert S.kthvalue(from_numpy(x), 2, 0, True).values.shape == (1, 4)
    check(lambda t: S.kthvalue(t, 3, 1).values, x)


def test_0d() -> None:
    x = leaf(3.0)
    assert S.sort(x).values.shape == () and S.argsort(x).item() == 0
    assert S.topk(x, 1).values.item() == 3 and S.kthvalue(x, 1).values.item() == 3


def test_errors() -> None:
    x = leaf(numbers(2, 3))
    for k in (-1, 4):
        with pytest.raises(RuntimeError, match="does not fit"):
            S.topk(x, k)
    with pytest.raises(RuntimeError, match="does not fit"):
        S.kthvalue(x, 0)
    with pytest.raises(IndexError, match="outside"):
        S.sort(x, 2)


def test_unique() -> None:
    x = np.array([[3, 1], [1, 2]])
    values, inverse, counts = S.unique(from_numpy(x), return_inverse=True, return_counts=True)
    assert values.numpy().tolist() == [1, 2, 3] and counts.numpy().tolist() == [2, 1, 1]
    np.testing.assert_array_equal(values.numpy()[inverse.numpy()], x)
    assert S.unique(leaf([2.0, 2.0])).requires_grad is False
    rows, places = S.unique(from_numpy(np.array([[1, 2], [0, 5], [1, 2]])), return_inverse=True, dim=0)
    assert rows.numpy().tolist() == [[0, 5], [1, 2]] and places.numpy().tolist() == [1, 0, 1]


def test_unique_consecutive() -> None:
    t = from_numpy(np.array([1, 1, 2, 2, 2, 1]))
    values, inverse, counts = S.unique_consecutive(t, return_inverse=True, return_counts=True)
    assert values.numpy().tolist() == [1, 2, 1] and counts.numpy().tolist() == [2, 3, 1]
    assert inverse.numpy().tolist() == [0, 0, 1, 1, 1, 2]
    assert S.unique_consecutive(from_numpy(np.zeros(0))).shape == (0,)
    rows = S.unique_consecutive(from_numpy(np.array([[1, 1], [1, 1], [0, 1]])), dim=0)
    assert rows.numpy().tolist() == [[1, 1], [0, 1]]
