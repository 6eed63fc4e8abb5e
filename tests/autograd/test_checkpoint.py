"""Checkpointing: the same gradients with less memory, and errors where they would not be the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.utils.checkpoint import CheckpointError, checkpoint, checkpoint_sequential


def leaf(*shape: int) -> dg.Tensor:
    return dg.randn(*shape, dtype=dg.float64).requires_grad_()


class Counted:
    """A function that knows how often it ran."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.function(*args, **kwargs)


def curve(x: Any) -> Any:
    return x.exp() * x.sin()


def same_gradient(through: Callable[[Any], Any], without: Callable[[Any], Any], x: dg.Tensor) -> None:
    (expected,) = dg.autograd.grad(without(x).sum(), x)
    (found,) = dg.autograd.grad(through(x).sum(), x)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_gradients_are_the_same_and_the_function_runs_twice() -> None:
    f = Counted(curve)
    same_gradient(lambda x: checkpoint(f, x), curve, leaf(3, 4))
    assert f.calls == 2


def test_keywords_other_arguments_and_tuples() -> None:
    def several(x: Any, factor: float, *, y: Any, flags: dict[str, bool]) -> Any:
        assert flags == {"on": True}
        return x.exp() * y, "text", (x * factor).sin()

    x, y = leaf(3), leaf(3)
    a, text, b = checkpoint(several, x, 2.0, y=y, flags={"on": True})
    assert text == "text"
    (a * b).sum().backward()
    e, _, s = several(u := x.detach().requires_grad_(), 2.0, y=(w := y.detach().requires_grad_()), flags={"on": True})
    (e * s).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), u.grad.numpy())
    np.testing.assert_array_equal(y.grad.numpy(), w.grad.numpy())


def test_several_backwards() -> None:
    f = Counted(curve)
    x = leaf(3)
    loss = checkpoint(f, x).sum()
    loss.backward(retain_graph=True)
    once = x.grad.numpy().copy()
    loss.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * once)
    assert f.calls == 3
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()


def test_outputs_one_after_the_other() -> None:
    f = Counted(lambda x: (x.exp().exp(), x.sin()))
    x = leaf(3)
    a, b = checkpoint(f, x)
    a.sum().backward()
    b.sum().backward()
    values = x.detach().numpy()
    np.testing.assert_allclose(x.grad.numpy(), np.exp(values) * np.exp(np.exp(values)) + np.cos(values))
    assert f.calls == 3


def test_second_derivatives() -> None:
    assert dg.autograd.gradcheck(lambda x: checkpoint(curve, x), leaf(3))
    assert dg.autograd.gradgradcheck(lambda x: checkpoint(curve, x), leaf(3))


def test_a_backward_inside_the_function() -> None:
    def penalty(x: Any) -> Any:
        (g,) = dg.autograd.grad(curve(x).sum(), x, create_graph=True)
        return g * x

    x = leaf(3)
    same_gradient(lambda x: checkpoint(penalty, x * 1), lambda x: penalty(x * 1), x)


def test_nested() -> None:
    inner = Counted(curve)

    def outer(x: Any) -> Any:
        return checkpoint(inner, checkpoint(inner, x.cos()).sin()).cos()

    x = leaf(3)
    same_gradient(lambda x: checkpoint(outer, x), lambda x: curve(curve(x.cos()).sin()).cos(), x)
    loss = checkpoint(outer, x).sum()
    loss.backward(retain_graph=True)
    once = x.grad.numpy().copy()
    loss.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * once)


def test_early_stop_ends_after_the_last_tensor_needed() -> None:
    steps: list[str] = []

    def f(x: Any) -> Any:
        steps.append("exp")
        y = x.exp()
        steps.append("add")
        return y + 1

    checkpoint(f, leaf(3)).sum().backward()
    assert steps == ["exp", "add", "exp"]
    steps.clear()
    checkpoint(f, leaf(3), early_stop=False).sum().backward()
    assert steps == ["exp", "add", "exp", "add"]


def test_early_stop_is_not_caught_by_the_function() -> None:
    def f(x: Any) -> Any:
        try:
            return x.exp().sin()
        except Exception:
            return x

    same_gradient(lambda x: checkpoint(f, x), f, leaf(3))


def test_the_random_state_is_preserved() -> None:
    drop = nn.Dropout(0.5)
    x = dg.ones(1000, requires_grad=True)
    dg.manual_seed(3)
    y = checkpoint(lambda x: (drop(x) * x).exp(), x)
    after = dg.get_rng_state()
    y.sum().backward()
    assert dg.get_rng_state() == after
    u = dg.ones(1000, requires_grad=True)
    dg.manual_seed(3)
    (drop(u) * u).exp().sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), u.grad.numpy())


def test_other_random_numbers_are_noticed() -> None:
    drop = nn.Dropout(0.5)
    y = checkpoint(lambda x: (drop(x) * x).exp(), dg.ones(1000, requires_grad=True), preserve_rng_state=False)
    with pytest.raises(CheckpointError, match="other values"):
        y.sum().backward()


@pytest.mark.parametrize("size", [3, 5000, 40000, 70001])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_changed_element_is_noticed(size: int, transposed: bool) -> None:
    w = dg.randn(2, size)
    if transposed:
        w = w.T
    x = dg.randn(*w.shape, requires_grad=True)
    y = checkpoint(lambda x: x * w, x)
    y.sum().backward()  # the same values pass
    y = checkpoint(lambda x: x * w, x)
    w.data[-1, -1] += 1e-3
    with pytest.raises(CheckpointError, match="other values"):
        y.sum().backward()
    y = checkpoint(lambda x: x * w, x, determinism_check="metadata")
    w.data[-1, -1] += 1
    y.sum().backward()


def test_swapped_elements_are_noticed() -> None:
    w = dg.randn(100_000)
    y = checkpoint(lambda x: x * w, dg.randn(100_000, requires_grad=True))
    w.array[[10, 50_000]] = w.array[[50_000, 10]]
    with pytest.raises(CheckpointError, match="other values"):
        y.sum().backward()


def test_nan_and_empty_arrays_equal_themselves() -> None:
    for values in ([float("nan"), 1.0], []):
        checkpoint(lambda x: x.exp() * x, dg.tensor(values, requires_grad=True)).sum().backward()


def test_a_parameter_stepped_before_backward_is_noticed() -> None:
    layer = nn.Linear(3, 3)
    y = checkpoint(nn.Sequential(layer, nn.Tanh(), layer), leaf(2, 3).float())
    with dg.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(CheckpointError, match="determinism_check='metadata'"):
        y.sum().backward()


def test_an_argument_changed_in_place_is_noticed() -> None:
    x = leaf(3)
    h = x * 2
    y = checkpoint(curve, h)
    h.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def differing(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    calls: list[int] = []

    def f(x: Any) -> Any:
        calls.append(1)
        return (first if len(calls) == 1 else second)(x)

    return f


def test_another_path_is_noticed() -> None:
    for second, message in ((lambda x: x.repeat(2).exp().sum(), r"\(6,\).*\(3,\)"),
                            (lambda x: x.float().exp().sum(), "float32.*float64"),
                            (lambda x: x.sum(), "saved 0 tensors.*first time 1"),):
        loss = checkpoint(differing(lambda x: x.exp().sum(), second), leaf(3))
        with pytest.raises(CheckpointError, match=message):
            loss.backward()
    more = differing(lambda x: x.exp().sum(), lambda x: x.exp().sin().sum())
    with pytest.raises(CheckpointError, match=r"saved 2 tensors.*first time 1"):
        checkpoint(more, leaf(3), early_stop=False).backward()
    none = differing(lambda x: x.exp().sum(), lambda x: x.exp().exp().sum() * 0)
    checkpoint(none, leaf(3), determinism_check="none").backward()
    assert issubclass(CheckpointError, RuntimeError)


def test_an_exception_in_the_second_run_comes_out() -> None:
    def broken(x: Any) -> Any:
        raise KeyError("second")

    loss = checkpoint(differing(lambda x: x.exp().sum(), broken), leaf(3))
    with pytest.raises(KeyError, match="second"):
        loss.backward()
    assert dg.is_grad_enabled()
    curve(leaf(2)).sum().backward()  # hooks and engine are as before


def test_arguments_of_checkpoint() -> None:
    with pytest.raises(ValueError, match="not needed"):
        checkpoint(curve, leaf(3), use_reentrant=True)
    with pytest.raises(ValueError, match="sometimes"):
        checkpoint(curve, leaf(3), determinism_check="sometimes")
    with pytest.raises(TypeError, match="unknown"):
        checkpoint(curve, leaf(3), unknown=1)
    with dg.no_grad():
        assert not checkpoint(curve, leaf(3), use_reentrant=False).requires_grad


def test_arguments_without_gradient() -> None:
    layer = nn.Linear(3, 2)
    checkpoint(lambda x: layer(x).tanh(), dg.ones(4, 3)).sum().backward()
    expected = nn.Linear(3, 2)
    expected.load_state_dict(layer.state_dict())
    expected(dg.ones(4, 3)).tanh().sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), expected.weight.grad.numpy())


def test_with_hooks_of_other_kinds() -> None:
    def pack(t: dg.Tensor) -> dg.Tensor:
        packed.append(tuple(t.shape))
        return t

    packed: list[Any] = []
    x = leaf(3)
    with dg.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = checkpoint(lambda x: curve(x).sum(), x)
        loss.backward()
    assert packed == [(3,)]  # the argument alone; what lies inside belongs to the checkpoint
    once = x.grad.numpy().copy()
    with dg.autograd.graph.save_on_cpu():
        checkpoint(lambda x: curve(x).sum(), x).backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * once)


def test_user_functions() -> None:
    class Cube(dg.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x, x * x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            assert ctx.saved_tensors[0].shape == g.shape
            return 3 * ctx.saved_tensors[1] * g

    same_gradient(lambda x: checkpoint(lambda x: Cube.apply(x.sin()), x), lambda x: Cube.apply(x.sin()), leaf(3))
    x = leaf(3)
    loss = checkpoint(lambda x: Cube.apply(x), x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * x.detach().numpy() ** 2)


def deep(x: Any, layers: int, segment: int, wrapped: bool, alive: list[weakref.ref[Any]]) -> tuple[Any, int]:
    """(output, the largest number of intermediate arrays alive) of a chain of exp(-x)."""
    most = 0

    def part(x: Any) -> Any:
        nonlocal most
        for _ in range(segment):
            x = (-x).exp()
            alive.append(weakref.ref(x.array))
            most = max(most, sum(reference() is not None for reference in alive))
        return x

    for _ in range(layers // segment):
        x = checkpoint(part, x) if wrapped else part(x)
    return x, lambda: most


def test_memory_falls_in_forward_and_backward() -> None:
    gc.disable()  # reference counting alone frees
    try:
        most = {}
        grads = {}
        for wrapped in (False, True):
            alive: list[weakref.ref[Any]] = []
            x = dg.full((1000,), 0.3, requires_grad=True)
            y, peak = deep(x, 64, 8, wrapped, alive)
            held = sum(reference() is not None for reference in alive)
            y.sum().backward()
            most[wrapped] = held, peak()
            grads[wrapped] = x.grad.numpy()
            del y, x
            assert not any(reference() is not None for reference in alive)
        np.testing.assert_array_equal(grads[True], grads[False])
        assert most[False] == (64, 64)
        assert most[True][0] == 8        # the outputs of the eight segments
        assert most[True][1] <= 8 + 9    # and one segment's inside at a time
    finally:
        gc.enable()


def test_memory_with_a_retained_graph() -> None:
    alive: list[weakref.ref[Any]] = []
    x = dg.full((1000,), 0.3, requires_grad=True)
    y, peak = deep(x, 64, 8, True, alive)
    y.sum().backward(retain_graph=True)
    assert peak() <= 8 + 9
    assert sum(reference() is not None for reference in alive) == 8


def test_sequential() -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(5)]).double()
    for segments in (1, 2, 3, 5):
        same_gradient(lambda x, n=segments: checkpoint_sequential(model, n, x, use_reentrant=False), model, leaf(3, 4))
    runs = [Counted(step) for step in (dg.exp, dg.sin, dg.cos, dg.tanh)]
    checkpoint_sequential(runs, 2, leaf(3)).sum().backward()
    assert [run.calls for run in runs] == [2, 2, 1, 1]
    for segments in (0, 5):
        with pytest.raises(ValueError, match="4 functions"):
            checkpoint_sequential(runs, segments, leaf(3))
