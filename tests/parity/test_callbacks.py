"""Hooks on several tensors, callbacks at the end of a backward, backward inside of backward."""

from __future__ import annotations

import pytest

from .both import Table, check, leaf, log, raised

case = Table()


@case
def multi_grad_hook_all(lib):
    seen = []
    x, y, z = leaf(lib, 1.0), leaf(lib, 2.0), leaf(lib, 3.0)
    lib.autograd.graph.register_multi_grad_hook((x, y, z), log(seen, "all"))
    (x * y).backward()
    (x * y * z).backward()
    (z * 2).backward()
    return seen


@case
def multi_grad_hook_any(lib):
    seen = []
    x, y, z = leaf(lib, 1.0), leaf(lib, 2.0), leaf(lib, 3.0)
    lib.autograd.graph.register_multi_grad_hook((x, y, z), log(seen, "any"), mode="any")
    (x * y).backward()
    (x * 2 * y * z).backward()
    (z * 2).backward()
    return seen


@case
def multi_grad_hook_on_inner_tensors(lib):
    seen = []
    x = leaf(lib, 1.0)
    a, b = x * 2, x * 3
    handle = lib.autograd.graph.register_multi_grad_hook([a, b, x], log(seen, "all"))
    (a * b).backward(retain_graph=True)
    handle.remove()
    (a * b).backward()
    return seen


@case
def multi_grad_hook_outputs_of_one_node(lib):
    seen = []
    x = leaf(lib, [1.0, 2.0, 3.0])
    a, b, c = x.unbind()
    lib.autograd.graph.register_multi_grad_hook([a, c], log(seen, "all"))
    (a * 2 + c * 3).backward()
    return seen


@case
def callbacks_run_at_the_end(lib):
    seen = []
    engine = lib.autograd.Variable._execution_engine
    x, w = leaf(lib, 2.0), leaf(lib, 3.0)

    def hook(g):
        engine.queue_callback(lambda: seen.append("first"))
        engine.queue_callback(lambda: seen.append("second"))
        seen.append("hook")

    y = x * 2
    y.register_hook(hook)
    x.register_post_accumulate_grad_hook(lambda t: seen.append("x"))
    w.register_post_accumulate_grad_hook(lambda t: seen.append("w"))
    (y * w).backward()
    return seen, raised(lambda: engine.queue_callback(lambda: None))


@case
def callbacks_that_queue_and_raise(lib):
    seen = []
    engine = lib.autograd.Variable._execution_engine
    x = leaf(lib, 2.0)

    def fail():
        raise KeyError("mine")

    def hook(g):
        engine.queue_callback(lambda: (seen.append(1), engine.queue_callback(lambda: seen.append(2)))[0])

    handle = x.register_hook(hook)
    first = raised(lambda: (x * 2).backward())
    handle.remove()
    x.register_hook(lambda g: engine.queue_callback(fail))
    return first, seen, raised(lambda: (x * 2).backward()), x.grad


@case
def callback_queued_in_a_nested_backward(lib):
    seen = []
    engine = lib.autograd.Variable._execution_engine
    x, inner = leaf(lib, 2.0), leaf(lib, 3.0)
    inner.register_hook(lambda g: engine.queue_callback(lambda: seen.append("callback")))

    def hook(g):
        with lib.enable_grad():
            (inner * 2).backward()
        seen.append("inner done")

    y = x * 2
    y.register_hook(hook)
    x.register_hook(lambda g: seen.append("x"))
    y.backward()
    return seen


@case
def nested_backward_through_the_same_graph(lib):
    x = leaf(lib, 3.0)
    y = x * x
    z = x * 5

    def hook(g):
        z.backward(retain_graph=True)

    y.register_hook(hook)
    (y * 2).backward()
    return x.grad


@case
def nested_backward_deep(lib):
    x = leaf(lib, 1.0)
    depth = []

    def hook(g):
        if len(depth) < 5:
            depth.append(1)
            with lib.enable_grad():
                y = x * 2
            y.register_hook(hook)
            y.backward()

    y = x * 2
    y.register_hook(hook)
    y.backward()
    return len(depth), x.grad


@case
def nested_backward_in_a_function(lib):
    class Nested(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with lib.enable_grad():
                ctx.x = x.detach().requires_grad_()
                ctx.y = (ctx.x ** 3).sum()
            return ctx.y.detach()

        @staticmethod
        def backward(ctx, g):
            with lib.enable_grad():
                ctx.y.backward()
            return ctx.x.grad * g

    x = leaf(lib, [1.0, 2.0])
    (Nested.apply(x * 2) * 3).backward()
    return x.grad


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
