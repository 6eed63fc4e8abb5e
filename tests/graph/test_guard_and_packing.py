"""Saved values: hooks through which they pass, and the guard that keeps numpy from changing them."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import Tensor
from distgrad.autograd import grad
from distgrad.autograd.graph import disable_saved_tensors_hooks, save_on_cpu, saved_tensors_hooks, set_memory_guard


def leaf(*values: float) -> Tensor:
    return distgrad.tensor(list(values), requires_grad=True)


def test_the_guard_catches_a_write_through_numpy() -> None:
    x = leaf(1.0, 2.0)
    y = x * 1
    raw = y.array
    with set_memory_guard(True):
        z = (y * y).sum()
        with pytest.raises(ValueError, match="read-only"):
            raw[0] = 5
    z.backward()
    raw[0] = 5
    np.testing.assert_array_equal(x.grad, [2, 4])


def test_the_guard_steps_aside_for_counted_writes_and_ends_with_the_graph() -> None:
    y = distgrad.ones(2)
    w = leaf(3.0, 4.0)
    with set_memory_guard(True):
        z = y * w
        y.add_(1)
        with pytest.raises(ValueError, match="read-only"):
            y.array[0] = 0
        with pytest.raises(RuntimeError, match="changed in place"):
            z.sum().backward()
    del z
    gc.collect()
    y.array[0] = 0
    np.testing.assert_array_equal(y, [0, 2])


def test_two_graphs_may_hold_one_array_and_read_only_arrays_stay_so() -> None:
    y = distgrad.ones(2)
    fixed = np.ones(2, np.float32)
    fixed.flags.writeable = False
    w = leaf(3.0, 4.0)
    with set_memory_guard(True):
        first, second = y * w, y * w * distgrad.from_numpy(fixed)
    first.sum().backward()
    with pytest.raises(ValueError, match="read-only"):
        y.array[0] = 0
    second.sum().backward()
    y.array[0] = 0
    assert not fixed.flags.writeable


def test_packed_values_come_back_and_higher_orders_hold() -> None:
    packed: list[tuple[int, ...]] = []

    def pack(t: Tensor) -> Any:
        packed.append(t.shape)
        return t.detach().numpy().astype(np.float64)

    def unpack(a: Any) -> Tensor:
        return distgrad.from_numpy(a.astype(np.float32))

    x = leaf(0.5, 2.0)
    with saved_tensors_hooks(pack, unpack):
        y = (distgrad.tanh(x) * x).sum()
    assert packed == [(2,), (2,), (2,)]
    (g,) = grad(y, x, create_graph=True)
    (gg,) = grad(g.sum(), x)
    v = np.array([0.5, 2.0])
    t = np.tanh(v)
    np.testing.assert_allclose(g.detach(), t + v * (1 - t * t), rtol=1e-6)
    np.testing.assert_allclose(gg, 2 * (1 - t * t) - 2 * v * t * (1 - t * t), rtol=1e-5)


def test_the_innermost_hooks_count_and_leave_in_order() -> None:
    seen: list[str] = []

    def hooks(name: str) -> saved_tensors_hooks:
        return saved_tensors_hooks(lambda t: (seen.append(name), t)[1], lambda t: t)

    x = leaf(1.0)
    with hooks("outer"):
        x.exp()
        with hooks("inner"):
            x.exp()
        x.exp()
    x.exp()
    assert seen == ["outer", "inner", "outer"]


def test_hooks_that_are_wrong_or_forbidden() -> None:
    x = leaf(1.0)
    with saved_tensors_hooks(lambda t: t, lambda t: 3):
        y = x.exp()
    with pytest.raises(TypeError, match="unpack hook"):
        y.backward()
    with disable_saved_tensors_hooks("not here"), pytest.raises(RuntimeError, match="not here"), save_on_cpu():
        pass
    with saved_tensors_hooks(lambda t: t, lambda t: t):
        pass


def test_save_on_cpu() -> None:
    x = leaf(1.0, 2.0)
    with save_on_cpu():
        y = (x * x).sum()
    y.backward()
    np.testing.assert_array_equal(x.grad, [2, 4])


def test_packing_frees_what_the_graph_would_hold() -> None:
    import weakref

    x = leaf(1.0)
    with saved_tensors_hooks(lambda t: t.item(), lambda v: distgrad.tensor([v])):
        y = x.exp()
        inner = weakref.ref(y)
        z = y * y
    del y
    assert inner() is None, "neither the node nor the packed value keeps the tensor"
    z.backward()
    assert x.grad.item() == pytest.approx(2 * np.e ** 2, rel=1e-6)
