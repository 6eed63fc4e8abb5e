"""In-place operations, versions, and what they forbid."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import Tensor


def leaf(*values: float) -> Tensor:
    return distgrad.tensor(list(values), requires_grad=True)


def test_versions_are_shared_by_views_and_detach_but_not_data() -> None:
    x = distgrad.ones(4)
    view, detached, data = x[1:], x.detach(), x.data
    x.add_(1)
    assert (x._version, view._version, detached._version, data._version) == (1, 1, 1, 0)
    view.mul_(2)
    assert x._version == 2
    np.testing.assert_array_equal(x, [2, 4, 4, 4])


@pytest.mark.parametrize("change", [lambda y: y.add_(1), lambda y: y.mul_(2), lambda y: y.zero_(),
                                    lambda y: y.detach().fill_(3)])
def test_a_saved_value_that_changed_is_named(change: Any) -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    z = (y * y).sum()
    change(y)
    with pytest.raises(RuntimeError, match=r"MulBackward0.*input.*version 1, expected 0"):
        z.backward()


def test_a_saved_output_that_changed_is_named() -> None:
    x = leaf(1.0, 2.0)
    y = distgrad.exp(x)
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"ExpBackward0.*output"):
        y.sum().backward()


def test_in_place_on_a_non_leaf_joins_its_history() -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = x * 1
    y.mul_(w)
    y += x
    y.pow_(2)
    y.sum().backward()
    base = np.array([1.0, 2.0]) * np.array([3.0, 4.0]) + np.array([1.0, 2.0])
    np.testing.assert_allclose(x.grad, 2 * base * np.array([4.0, 5.0]))
    np.testing.assert_allclose(w.grad, 2 * base * np.array([1.0, 2.0]))


def test_setitem_joins_the_history() -> None:
    x, v = leaf(1.0, 2.0, 3.0), leaf(10.0)
    y = x * 2
    y[1:2] = v * 3
    (y * y).sum().backward()
    np.testing.assert_allclose(x.grad, [8, 0, 24])
    np.testing.assert_allclose(v.grad, [180])


def test_in_place_makes_a_plain_tensor_part_of_the_graph() -> None:
    x, w = distgrad.ones(2), leaf(3.0, 4.0)
    x.mul_(w)
    assert x.requires_grad
    x.sum().backward()
    np.testing.assert_array_equal(w.grad, [1, 1])


@pytest.mark.parametrize("act", [lambda x: x.add_(1), lambda x: x[0:1].add_(1), lambda x: x.view(2, 1).zero_(),
                                 lambda x: x.__setitem__(0, 1.0)])
def test_leaves_and_their_views_are_protected(act: Any) -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="leaf that requires grad"):
        act(x)
    with distgrad.no_grad():
        act(x)


def test_one_of_several_views_and_views_made_under_no_grad() -> None:
    x = leaf(1.0, 2.0, 3.0, 4.0) * 1
    first, _ = x.split(2)
    with pytest.raises(RuntimeError, match="several views"):
        first.add_(1)
    with distgrad.no_grad():
        view = x[:2]
    with pytest.raises(RuntimeError, match="no_grad"):
        view.add_(1)


def test_in_place_results_must_fit() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        distgrad.ones(2).add_(distgrad.ones(3, 2))
    with pytest.raises(RuntimeError, match="dtype"):
        distgrad.ones(2, dtype=distgrad.int64).add_(0.5)


def test_requires_grad_rules() -> None:
    with pytest.raises(RuntimeError, match="floating and complex"):
        distgrad.tensor([1, 2], requires_grad=True)
    y = leaf(1.0) * 2
    with pytest.raises(RuntimeError, match="leaf"):
        y.requires_grad = False
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(y)
    x = leaf(1.0)
    x.grad = distgrad.ones(1)
    other = copy.deepcopy(x)
    assert other.requires_grad and other.grad is not x.grad and other.array is not x.array


def test_a_0d_tensor_stays_one_memory() -> None:
    x = distgrad.tensor(1.0)
    alias = x.detach()
    x += 1
    x.mul_(3)
    assert alias.item() == 6 and type(x.array) is type(alias.array)


def test_data_assignment_is_not_counted() -> None:
    x = leaf(1.0)
    x.data = distgrad.tensor([5.0])
    assert x.item() == 5 and x._version == 0
    with pytest.raises(TypeError):
        x.data = 3


def test_a_write_through_a_view_joins_the_history_of_its_base_and_of_other_views() -> None:
    x, w = leaf(1.0, 2.0, 3.0, 4.0), leaf(10.0, 20.0)
    base = x * 1
    other = base[1:4]
    view = base.view(2, 2)[0]
    view.mul_(w)
    assert base.grad_fn.name() == "CopySlices"
    np.testing.assert_array_equal(other.detach(), [40, 3, 4])
    (base.sum() + (other * other).sum()).backward()
    np.testing.assert_allclose(x.grad, [10, 20 + 2 * 40 * 20, 1 + 6, 1 + 8])
    np.testing.assert_allclose(w.grad, [1, 2 + 2 * 40 * 2])


def test_a_write_into_the_base_reaches_its_views() -> None:
    x = leaf(1.0, 2.0)
    base = x * 1
    view = base[:1]
    base.mul_(3)
    view.sum().backward()
    np.testing.assert_array_equal(x.grad, [3, 0])


def test_a_write_through_a_view_has_a_second_derivative() -> None:
    from distgrad.autograd import gradcheck, gradgradcheck

    def f(x: Tensor, w: Tensor) -> Tensor:
        base = x * 1
        base[1:3].mul_(w)
        base.t()[0:1].pow_(3)
        return (base * base).sum()

    x = distgrad.randn(4, 2, dtype=distgrad.float64, requires_grad=True)
    w = distgrad.randn(2, dtype=distgrad.float64, requires_grad=True)
    assert gradcheck(f, (x, w)) and gradgradcheck(f, (x, w))


def test_a_view_of_a_plain_tensor_brings_it_into_the_graph() -> None:
    buffer, w = distgrad.zeros(3), leaf(2.0)
    buffer[1:2].add_(w)
    assert buffer.requires_grad
    (buffer * 5).sum().backward()
    assert w.grad.item() == 5


def test_views_of_a_long_lived_buffer_do_not_pile_up() -> None:
    buffer = distgrad.zeros(4)
    for _ in range(1000):
        buffer[1:].sum()
    assert len(buffer.__dict__["_views"]) < 64
