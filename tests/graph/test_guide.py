"""The autograd guide's own sentences, typed as a user would type them."""

from __future__ import annotations

import numpy as np
import pytest

import distgrad
from distgrad.autograd import detect_anomaly
from distgrad.errors import AnomalyError


def test_scalar_backward() -> None:
    x = distgrad.tensor([2.0, 3.0], requires_grad=True)
    y = (x ** 2).sum()
    y.backward()
    np.testing.assert_array_equal(x.grad, 2 * x.detach().numpy())


def test_vector_backward_needs_a_gradient() -> None:
    x = distgrad.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x ** 2
    with pytest.raises(RuntimeError, match="single element"):
        y.backward()
    y.backward(distgrad.ones_like(y))
    np.testing.assert_array_equal(x.grad, [2, 4, 6])


def test_graph_follows_control_flow() -> None:
    def recursive(x: distgrad.Tensor, depth: int) -> distgrad.Tensor:
        return x if depth == 0 else recursive(x * 2 if depth % 2 else x + 1, depth - 1)

    x = distgrad.tensor(1.0, requires_grad=True)
    y = recursive(x, 4)
    if y > 0:
        y = y * 3
    for _ in range(2):
        y = y * y
    y.backward()
    eps = 1e-3

    def f(v: float) -> float:
        for depth in (4, 3, 2, 1):
            v = v * 2 if depth % 2 else v + 1
        return (v * 3) ** 4

    assert x.grad.item() == pytest.approx((f(1 + eps) - f(1 - eps)) / (2 * eps), rel=1e-4)


def test_grad_fn_and_next_functions() -> None:
    x = distgrad.tensor([1.0], requires_grad=True)
    y = (x * 2).exp()
    assert y.grad_fn.name() == "ExpBackward0"
    (mul, _), = y.grad_fn.next_functions
    assert mul.name() == "MulBackward0"
    accumulate = mul.next_functions[0][0]
    assert accumulate.name() == "AccumulateGrad"
    assert accumulate.variable is x
    assert mul.next_functions[1] == (None, 0)
    assert x.is_leaf and not y.is_leaf and x.grad_fn is None


def test_no_grad_context_and_decorators() -> None:
    x = distgrad.ones(2, requires_grad=True)
    with distgrad.no_grad():
        assert not (x * 2).requires_grad

    @distgrad.no_grad()
    def with_parentheses() -> distgrad.Tensor:
        return x * 2

    @distgrad.no_grad
    def without() -> distgrad.Tensor:
        return x * 2

    @distgrad.no_grad()
    def generator():  # type: ignore[no-untyped-def]
        yield (x * 2).requires_grad
        yield (x * 2).requires_grad

    assert not with_parentheses().requires_grad
    assert not without().requires_grad
    steps = generator()
    assert next(steps) is False
    assert (x * 2).requires_grad, "the consumer of a generator keeps its own mode"
    assert next(steps) is False
    steps.close()


def test_inference_mode() -> None:
    x = distgrad.ones(2, requires_grad=True)
    with distgrad.inference_mode():
        y = x * 2
        assert distgrad.is_inference_mode_enabled()
        with distgrad.enable_grad():
            assert not (x * 2).requires_grad
    assert y.is_inference() and not y.requires_grad
    with pytest.raises(RuntimeError, match="inference tensor"):
        x * y  # saving it for backward is what is forbidden
    assert (x + y).requires_grad, "an operation that does not save it may use it"
    assert (x * y.clone()).requires_grad
    with pytest.raises(RuntimeError, match="in place"):
        y.add_(1)
    with pytest.raises(RuntimeError, match="inference"):
        y.requires_grad_()


def test_anomaly_names_the_forward_line() -> None:
    with detect_anomaly():
        x = distgrad.tensor([1.0], requires_grad=True)
        y = x ** 2
        z = 1 / (y - 1)
        with pytest.raises(AnomalyError) as caught:
            z.backward()
    text = str(caught.value)
    assert "Inf" in text and "DivBackward0" in text
    assert "z = 1 / (y - 1)" in text
    assert "test_guide.py" in text


def test_training_loop_falls() -> None:
    from distgrad import nn, optim

    distgrad.manual_seed(0)
    model = nn.LSTM(10, 20, 2)
    head = nn.Linear(20, 1)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = optim.Adam(parameters, lr=0.01)
    x, target = distgrad.randn(5, 3, 10), distgrad.randn(5, 3, 1)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        output, _ = model(x)
        loss = ((head(output) - target) ** 2).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, max_norm=1.0)
        assert norm.item() > 0
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
