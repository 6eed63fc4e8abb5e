"""The engine: order, sums, hooks, the life of the graph."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import Tensor
from distgrad.autograd import backward, grad, queue_callback


def leaf(*values: float) -> Tensor:
    return distgrad.tensor(list(values), requires_grad=True)


def test_leaf_used_twice_is_summed_before_it_is_accumulated() -> None:
    x = leaf(1.0, 2.0)
    seen: list[Any] = []
    x.register_hook(lambda g: seen.append(g.numpy().copy()))
    (x * x + 3 * x).sum().backward()
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], [5, 7])


def test_leaf_accumulates_as_early_as_possible() -> None:
    order: list[str] = []
    w1, w2, x = leaf(1.0), leaf(1.0), leaf(1.0)
    for name, w in (("w1", w1), ("w2", w2), ("x", x)):
        w.register_post_accumulate_grad_hook(lambda _t, name=name: order.append(name))
    h = x * w1
    h.register_hook(lambda g: order.append("h"))
    (h * w2).backward()
    assert order[0] == "w2", "the last layer's weight is ready before the gradient moves on"
    assert order[1] == "h"
    assert set(order[2:]) == {"w1", "x"}


def test_hook_order_on_a_leaf_and_replacement() -> None:
    x = leaf(1.0)
    order: list[str] = []
    x.register_hook(lambda g: order.append("tensor 1") or g * 2)
    x.register_hook(lambda g: order.append("tensor 2") or g + 1)
    x.register_post_accumulate_grad_hook(lambda t: order.append(f"post {t.grad.item()}"))
    (x * 3).backward()
    assert order == ["tensor 1", "tensor 2", "post 7.0"]


def test_hook_errors() -> None:
    x = leaf(1.0, 2.0)
    handle = x.register_hook(lambda g: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="tensor or None"):
        (x * 2).sum().backward()
    handle.remove()
    handle = x.register_hook(lambda g: g[:1])
    with pytest.raises(RuntimeError, match="shape"):
        (x * 2).sum().backward()
    handle.remove()
    x.grad = None
    (x * 2).sum().backward()
    np.testing.assert_array_equal(x.grad, [2, 2])


def test_hook_that_removes_itself_and_one_that_raises() -> None:
    x = leaf(1.0)
    calls: list[int] = []
    handle = x.register_hook(lambda g: (calls.append(1), handle.remove())[1])
    (x * 2).backward()
    (x * 2).backward()
    assert calls == [1]

    def fails(g: Tensor) -> None:
        raise KeyError("mine")

    failing = x.register_hook(fails)
    with pytest.raises(KeyError):
        (x * 2).backward()
    failing.remove()
    assert distgrad.is_grad_enabled()
    (x * 2).backward()
    with pytest.raises(RuntimeError, match="no backward is running"):
        queue_callback(lambda: None)


def test_retain_grad_sees_the_value_after_hooks() -> None:
    x = leaf(1.0)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    (y * 3).backward()
    assert y.grad.item() == 30
    assert x.grad.item() == 60


def test_callbacks_run_after_the_whole_backward() -> None:
    order: list[str] = []
    x, w = leaf(1.0), leaf(1.0)

    def hook(_g: Tensor) -> None:
        queue_callback(lambda: order.append("callback"))

    y = x * 2
    y.register_hook(hook)
    x.register_post_accumulate_grad_hook(lambda _t: order.append("x"))
    w.register_post_accumulate_grad_hook(lambda _t: order.append("w"))
    (y * w).backward()
    assert order == ["w", "x", "callback"]


def test_reentrant_backward() -> None:
    x, inner = leaf(2.0), leaf(3.0)
    y = x * 2

    @distgrad.enable_grad()  # backward runs with grad mode off
    def hook(_g: Tensor) -> None:
        (inner * inner).backward()

    y.register_hook(hook)
    y.backward()
    assert (x.grad.item(), inner.grad.item()) == (2, 6)


def test_second_backward_raises_only_where_values_were_saved() -> None:
    x = leaf(1.0, 2.0)
    y = (x + 1).sum()
    y.backward()
    y.backward()
    np.testing.assert_array_equal(x.grad, [2, 2])
    z = (x * x).sum()
    z.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        z.backward()
    z = (x * x).sum()
    z.backward(retain_graph=True)
    z.backward()


def test_gradient_accumulates_in_the_same_object() -> None:
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    assert x.grad is first
    np.testing.assert_array_equal(first, [5, 5])


def test_gradients_of_two_leaves_never_share_memory() -> None:
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    cotangent = distgrad.ones(2)
    (a + b).backward(cotangent)
    a.grad.mul_(5)
    np.testing.assert_array_equal(b.grad, [1, 1])
    np.testing.assert_array_equal(cotangent, [1, 1])


def test_gradient_keeps_memory_order_and_dtype() -> None:
    w = distgrad.from_numpy(np.asfortranarray(np.ones((3, 4), np.float32))).requires_grad_()
    x = distgrad.ones(2, 4, dtype=distgrad.float64)
    (x @ w.double().T).sum().backward()
    assert w.grad.array.flags.f_contiguous and w.grad.dtype == np.float32


def test_grad_returns_and_does_not_accumulate() -> None:
    x, w, unused = leaf(2.0), leaf(3.0), leaf(1.0)
    y = x * w
    gx, gy = grad(y * y, [x, y])
    assert (gx.item(), gy.item()) == (36, 12)
    assert x.grad is None and w.grad is None
    with pytest.raises(RuntimeError, match="not used"):
        grad(x * w, [unused])
    assert grad(x * w, [unused], allow_unused=True) == (None,)
    assert grad(x * w, [unused], materialize_grads=True)[0].item() == 0


def test_grad_runs_tensor_hooks_only() -> None:
    x = leaf(2.0)
    order: list[str] = []
    x.register_hook(lambda g: order.append("tensor") or g * 2)
    x.register_post_accumulate_grad_hook(lambda t: order.append("post"))
    assert grad(x * 3, x)[0].item() == 6
    assert order == ["tensor"]


def test_backward_inputs_limits_accumulation() -> None:
    x, w = leaf(2.0), leaf(3.0)
    y = x * w
    (y * 2).backward(inputs=[w, y])
    assert x.grad is None and w.grad.item() == 4 and y.grad.item() == 2
    with pytest.raises(RuntimeError, match="empty"):
        (x * w).backward(inputs=[])


def test_higher_order() -> None:
    x = leaf(2.0)
    (g,) = grad(x ** 4, x, create_graph=True)
    (gg,) = grad(g, x, create_graph=True)
    (ggg,) = grad(gg, x)
    assert (g.item(), gg.item(), ggg.item()) == (32, 48, 48)


def test_saved_output_is_attached_under_create_graph() -> None:
    x = leaf(0.5)
    (g,) = grad(distgrad.tanh(x), x, create_graph=True)
    (gg,) = grad(g, x)
    t = np.tanh(0.5)
    assert gg.item() == pytest.approx(-2 * t * (1 - t * t), rel=1e-6)


def test_create_graph_warns_and_accumulates_out_of_place() -> None:
    x = leaf(2.0)
    with pytest.warns(UserWarning, match="create_graph"):
        (x ** 3).backward(create_graph=True)
    first = x.grad
    assert first.requires_grad
    with pytest.warns(UserWarning):
        (x ** 3).backward(create_graph=True)
    assert x.grad is not first and x.grad.item() == 24


@pytest.mark.parametrize(("make", "kind", "text"), [
    (lambda x: x.detach().backward(), RuntimeError, "does not require grad"),
    (lambda x: (x * 2).backward(distgrad.ones(3)), RuntimeError, "shape"),
    (lambda x: (x * 2).sum().backward(distgrad.ones(()).to("complex64")), RuntimeError, "complex"),
    (lambda x: (x * 1j).sum().backward(), RuntimeError, "complex"),
    (lambda x: backward([x * 2], [None, None]), RuntimeError, "gradients"),
    (lambda x: grad(x.sum(), []), RuntimeError, "empty"),
    (lambda x: grad(x.sum(), distgrad.ones(1)), RuntimeError, "does not require grad"),
    (lambda x: backward("x"), TypeError, "tensor"),
])
def test_misuse(make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make(leaf(1.0, 2.0))


@pytest.mark.parametrize(("value", "kind"), [(3, TypeError), (distgrad.ones(3), RuntimeError),
                                             (distgrad.ones(2, dtype=distgrad.float64), RuntimeError)])
def test_assigning_a_wrong_grad(value: Any, kind: type[Exception]) -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(kind):
        x.grad = value


def test_reading_grad_of_a_non_leaf_warns() -> None:
    y = leaf(1.0) * 2
    with pytest.warns(UserWarning, match="leaf"):
        assert y.grad is None


def test_broadcast_gradients_are_summed() -> None:
    a = distgrad.ones(3, 1, requires_grad=True)
    b = distgrad.ones(4, requires_grad=True)
    s = distgrad.tensor(2.0, requires_grad=True)
    (a * b * s).sum().backward()
    assert a.grad.shape == (3, 1) and b.grad.shape == (4,) and s.grad.shape == ()
    assert s.grad.item() == 12


def test_a_long_chain_does_not_recurse() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert x.grad.item() == 1
    del y


def test_no_memory_growth_without_the_collector() -> None:
    x = distgrad.ones(10, requires_grad=True)

    def step() -> None:
        x.grad = None
        (distgrad.tanh(x * x) + x).sum().backward()

    step()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(200):
            step()
        assert len(gc.get_objects()) <= before + 20
    finally:
        gc.enable()


def test_resident_memory_is_flat_over_ten_thousand_steps() -> None:
    """Views, in-place writes, saved outputs, hooks and a second derivative, with the collector off."""
    x = distgrad.ones(64, requires_grad=True)
    x.register_hook(lambda g: g * 1)

    def step() -> None:
        x.grad = None
        y = x * 2
        y[1:3].mul_(x[1:3])
        (distgrad.tanh(y.view(8, 8)).sum(0) * x[:8]).sum().backward()
        (g,) = grad((x ** 3).sum(), x, create_graph=True)
        grad(g.sum(), x)

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    gc.collect()
    gc.disable()
    try:
        for _ in range(500):
            step()
        before = resident()
        for _ in range(10_000):
            step()
        assert resident() <= 1.01 * before
    finally:
        gc.enable()


def test_modes_are_per_thread() -> None:
    seen: list[bool] = []
    with distgrad.no_grad():
        thread = threading.Thread(target=lambda: seen.append(distgrad.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_set_grad_enabled_three_ways() -> None:
    with distgrad.set_grad_enabled(False):
        assert not distgrad.is_grad_enabled()
    assert distgrad.is_grad_enabled()
    distgrad.set_grad_enabled(False)
    assert not distgrad.is_grad_enabled()
    distgrad.set_grad_enabled(True)

    @distgrad.set_grad_enabled(False)
    def decorated() -> bool:
        return distgrad.is_grad_enabled()

    assert distgrad.is_grad_enabled()
    assert decorated() is False
