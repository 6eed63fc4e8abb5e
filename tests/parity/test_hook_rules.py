"""What hooks may do: replace gradients, remove themselves, raise; and what they must not."""

from __future__ import annotations

import pytest

from .both import Table, check, leaf, raised

case = Table()


@case
def hook_replaces_gradient(lib):
    x = leaf(lib, [1.0, 2.0])
    x.register_hook(lambda g: g * 2)
    x.register_hook(lambda g: g + 1)
    x.register_hook(lambda g: None)
    (x * 3).sum().backward()
    return x.grad


def _leaf_hook(result):
    def run(lib):
        x = leaf(lib, [[1.0, 2.0]])
        x.register_hook(lambda g: result(lib, g))
        kind = raised(lambda: (x * 3).sum().backward())
        return kind, x.grad if kind == "nothing" else None
    return run


def _node_hook(result):
    def run(lib):
        x = leaf(lib, [[1.0, 2.0]])
        y = x * 3
        y.register_hook(lambda g: result(lib, g))
        kind = raised(lambda: y.sum().backward())
        return kind, x.grad if kind == "nothing" else None
    return run


for name, result in {
    "number": lambda lib, g: 3, "string": lambda lib, g: "g", "list": lambda lib, g: [g], "tuple": lambda lib, g: (g,),
    "false": lambda lib, g: False, "wrong_shape": lambda lib, g: g[0], "wrong_size": lambda lib, g: lib.ones(3),
    "scalar": lambda lib, g: g.sum(), "other_dtype": lambda lib, g: g.to(lib.float32),
    "expanded": lambda lib, g: lib.ones(1, 1, dtype=lib.float64).expand(1, 2),
    "numpy": lambda lib, g: g.numpy(), "same": lambda lib, g: g,
    "complex": lambda lib, g: g.to(lib.complex128) * (1 + 2j),
    "integer": lambda lib, g: g.to(lib.int64),
}.items():
    case.add(f"leaf_hook_returns_{name}", _leaf_hook(result))
    case.add(f"hook_returns_{name}", _node_hook(result))


@case
def hook_removes_itself(lib):
    x = leaf(lib, 2.0)
    seen = []
    handle = x.register_hook(lambda g: (seen.append(1), handle.remove())[0])
    other = x.register_hook(lambda g: seen.append(2))
    (x * 2).backward()
    (x * 2).backward()
    other.remove()
    other.remove()
    (x * 2).backward()
    return seen


@case
def handle_as_context(lib):
    x = leaf(lib, 2.0)
    with x.register_hook(lambda g: g * 10):
        (x * 2).backward()
    (x * 2).backward()
    return x.grad


@case
def hook_removes_a_later_one_on_a_node(lib):
    x = leaf(lib, 2.0)
    y = x * 2
    seen = []
    y.register_hook(lambda g: (seen.append(1), late.remove())[0])
    late = y.register_hook(lambda g: seen.append(2))
    y.backward()
    return len(seen) >= 1


@case
def raising_hook_leaves_the_engine_usable(lib):
    x = leaf(lib, 2.0)

    def fail(g):
        raise KeyError("mine")

    handle = x.register_hook(fail)
    first = raised(lambda: (x * 2).backward())
    handle.remove()
    (x * 2).backward()
    return first, x.grad, lib.is_grad_enabled()


@case
def raising_post_accumulate_hook(lib):
    x = leaf(lib, 2.0)

    def fail(t):
        raise ValueError("mine")

    x.register_post_accumulate_grad_hook(fail)
    return raised(lambda: (x * 2).backward()), x.grad


@case
def post_accumulate_hook_returns_a_value(lib):
    x = leaf(lib, 2.0)
    x.register_post_accumulate_grad_hook(lambda t: 3)
    return raised(lambda: (x * 2).backward())


@case
def post_accumulate_hook_may_clear_the_gradient(lib):
    x = leaf(lib, [2.0])
    seen = []

    def step(t):
        seen.append(t.grad.tolist())
        t.grad = None

    x.register_post_accumulate_grad_hook(step)
    (x * 2).sum().backward()
    (x * 5).sum().backward()
    return seen, x.grad


@case
def registration_errors(lib):
    x, y = leaf(lib, 2.0), lib.ones(2)
    return (raised(lambda: y.register_hook(lambda g: g)),
            raised(lambda: y.register_post_accumulate_grad_hook(lambda t: None)),
            raised(lambda: (x * 2).register_post_accumulate_grad_hook(lambda t: None)),
            raised(lambda: lib.autograd.graph.register_multi_grad_hook([x], lambda gs: None, mode="some")))


@case
def grad_mode_inside_hooks(lib):
    x = leaf(lib, 2.0)
    seen = []
    x.register_hook(lambda g: seen.append((lib.is_grad_enabled(), g.requires_grad)))
    (x ** 2).backward()
    lib.autograd.grad(x ** 2, x, create_graph=True)
    x.grad = None
    (x ** 2).backward(create_graph=True)
    return seen


@case
def hook_under_create_graph_is_differentiated(lib):
    x = leaf(lib, 2.0)
    y = x * 3
    y.register_hook(lambda g: g * g)
    (g,) = lib.autograd.grad(y ** 3, x, create_graph=True)
    return g, lib.autograd.grad(g, x)


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
