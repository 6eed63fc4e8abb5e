"""User-defined functions: what may be set on ctx, what forward may take and return."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad.autograd import Function, Variable, queue_callback


class Scaled(Function):
    """factor * x, with names on ctx that a node has too."""

    @staticmethod
    def forward(x: Any, factor: float = 2.0) -> Any:
        return x * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.shape, ctx.values, ctx.edges, ctx.hooks, ctx.op = inputs[0].shape, inputs[1], "mine", 3, None

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        assert ctx.edges == "mine" and ctx.shape == ctx.saved_tensors[0].shape
        return g * ctx.values, None


def test_names_on_ctx_are_free_and_defaults_are_inputs() -> None:
    x = distgrad.ones(3, requires_grad=True)
    y = Scaled.apply(x) + Scaled.apply(x, factor=5.0)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [7, 7, 7])


def test_a_call_leaves_no_cycle() -> None:
    gc.disable()
    try:
        y = Scaled.apply(distgrad.ones(3, requires_grad=True))
        node = weakref.ref(y.grad_fn)
        del y
        assert node() is None
    finally:
        gc.enable()


def test_outputs_that_are_no_tensors_have_a_place_among_the_cotangents() -> None:
    seen: list[Any] = []

    class Pair(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2, "text", x * 3

        @staticmethod
        def backward(ctx: Any, a: Any, b: Any, c: Any) -> Any:
            seen.append(b)
            return a * 2 + c * 3

    x = distgrad.ones(2, requires_grad=True)
    a, text, c = Pair.apply(x)
    assert text == "text" and (a.output_nr, c.output_nr) == (0, 2)
    (a + c).sum().backward()
    assert seen == [None]
    np.testing.assert_array_equal(x.grad, [5, 5])


def test_an_input_that_is_returned_is_not_to_be_written_to() -> None:
    class Same(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g

    x = distgrad.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="in place"):
        Same.apply(x).add_(1)
    np.testing.assert_array_equal(x.detach(), [1, 1])


def test_a_callback_may_queue_another() -> None:
    order: list[int] = []
    x = distgrad.ones(1, requires_grad=True)

    def first() -> None:
        order.append(1)
        Variable._execution_engine.queue_callback(lambda: order.append(2))

    x.register_hook(lambda g: queue_callback(first))
    (x * 2).backward()
    assert order == [1, 2]
