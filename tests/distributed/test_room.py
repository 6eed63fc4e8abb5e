"""A weight's gradient is computed where it stays, if nobody can see the difference; else it is copied there."""

from __future__ import annotations

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.backend import get
from distgrad.distributed import DataParallel

X = np.random.default_rng(0).standard_normal((6, 4)).astype("float32")


@pytest.fixture
def rooms(monkeypatch):
    """Whether each gradient of a weight was computed into memory that was there."""
    kernels = get(dg.get_default_device()).kernels
    plain, seen = kernels.linear_grad_weight, []

    def noted(g, x, out=None):
        seen.append(out is not None)
        return plain(g, x, out)

    monkeypatch.setattr(kernels, "linear_grad_weight", noted)
    return seen


def layer():
    dg.manual_seed(0)
    return nn.Linear(4, 3)


def gradient(loss):
    """The weight's gradient of a loss of a layer outside of any flat memory."""
    plain = layer()
    loss(plain).backward()
    return plain.weight.grad.numpy()


def squares(model):
    return (model(dg.from_numpy(X)) ** 2).sum()


def test_the_first_gradient_is_computed_in_place(rooms):
    model = DataParallel(layer())
    home = model.weight.placement.home
    squares(model).backward()
    assert rooms == [True] and model.weight.grad is home
    np.testing.assert_array_equal(home.numpy(), gradient(squares))


def test_the_second_one_is_added(rooms):
    model = DataParallel(layer())
    for _ in range(2):
        squares(model).backward()
    assert rooms == [True, False]
    np.testing.assert_array_equal(model.weight.grad.numpy(), 2 * gradient(squares))
    model.zero_grad()
    rooms.clear()
    squares(model).backward()
    assert rooms == [True]
    np.testing.assert_array_equal(model.weight.grad.numpy(), gradient(squares))


def test_of_a_layer_used_twice_the_sum_is_made_first(rooms):
    def twice(model):
        return (model(dg.from_numpy(X)) * model(dg.from_numpy(X[::-1].copy()))).sum()

    model = DataParallel(layer())
    twice(model).backward()
    assert rooms == [False, False]
    np.testing.assert_array_equal(model.weight.grad.numpy(), gradient(twice))


@pytest.mark.parametrize("where", ["tensor", "leaf", "node"])
def test_what_hooks_get_is_theirs(rooms, where):
    model, kept = DataParallel(layer()), []
    loss = squares(model)
    if where == "tensor":
        model.weight.register_hook(kept.append)
    elif where == "leaf":
        product = loss.grad_fn.next_functions[0][0].next_functions[0][0]
        accumulate = next(fn for fn, _ in product.next_functions if getattr(fn, "variable", None) is model.weight)
        accumulate.register_prehook(lambda grads: kept.append(grads[0]))
    else:
        product = loss.grad_fn.next_functions[0][0].next_functions[0][0]
        product.register_hook(lambda given, _: kept.append(next(g for g in given if g is not None and g.ndim == 2)))
    loss.backward()
    assert rooms == [False] and len(kept) == 1
    before = kept[0].numpy().copy()
    model.zero_grad()
    (3 * squares(model)).backward()
    np.testing.assert_array_equal(kept[0].numpy(), before)


def test_gradients_that_are_asked_for_stay_away_from_the_slot(rooms):
    model = DataParallel(layer())
    found, = dg.autograd.grad(squares(model), [model.weight])
    assert rooms == [False] and model.weight.grad is None
    squares(model).backward(inputs=[model.weight])
    assert rooms == [False, False]
    np.testing.assert_array_equal(model.weight.grad.numpy(), found.numpy())


def test_a_gradient_of_the_users_is_added_to(rooms):
    model = DataParallel(layer())
    model.weight.grad = dg.ones(3, 4)
    squares(model).backward()
    assert rooms == [False]
    np.testing.assert_array_equal(model.weight.grad.numpy(), 1 + gradient(squares))
