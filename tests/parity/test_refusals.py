"""What `.grad`, `backward` and `grad` refuse, and what they take from a user's Function."""

from __future__ import annotations

from typing import Any

import pytest

from .both import Table, check, leaf, raised, warned

case = Table()


@case
def assigning_grad(lib):
    x = leaf(lib, [1.0, 2.0])
    y = x * 2

    def assign(value):
        def run():
            x.grad = value
        return raised(run)

    found = [assign(v) for v in (3, "a", [1.0], lib.ones(3), lib.ones(2), lib.ones(2, dtype=lib.int64),
                                 lib.ones(2, 1, dtype=lib.float64), lib.ones(2, dtype=lib.float64), None, x,
                                 lib.ones(2, dtype=lib.complex128))]
    x.grad = lib.ones(2, dtype=lib.float64)
    del x.grad
    return found, x.grad, assign(y)


@case
def grad_of_a_plain_tensor_may_be_assigned(lib):
    x = lib.ones(2)
    x.grad = lib.ones(2)
    return x.grad, x.requires_grad


@case
def warnings_of_the_guide(lib):
    x = leaf(lib, 2.0)
    y = x * x
    first = warned(lambda: y.grad)
    y.retain_grad()
    return (first, warned(lambda: y.grad), warned(lambda: x.grad), warned(lambda: (x * x).backward(create_graph=True)),
            warned(lambda: lib.autograd.grad(x * x, x, create_graph=True)), warned(lambda: lib.ones(1).grad),
            warned(lambda: (x * 1).detach().grad))


@case
def refusals_of_backward(lib):
    x = leaf(lib, [1.0, 2.0])
    c = leaf(lib, [1.0, 2.0], "complex128")
    ones = lib.ones(2, dtype=lib.float64)
    backward = lib.autograd.backward
    return {
        "not scalar": raised(lambda: (x * 2).backward()),
        "complex scalar": raised(lambda: c.sum().backward()),
        "shape": raised(lambda: (x * 2).backward(lib.ones(3, dtype=lib.float64))),
        "broadcastable shape": raised(lambda: (x * 2).backward(lib.ones(1, dtype=lib.float64))),
        "extra dimension": raised(lambda: (x * 2).backward(lib.ones(1, 2, dtype=lib.float64))),
        "narrower dtype": raised(lambda: (x * 2).backward(lib.ones(2))),
        "integer": raised(lambda: (x * 2).backward(lib.ones(2, dtype=lib.int64))),
        "complex for real": raised(lambda: (x * 2).backward(lib.ones(2, dtype=lib.complex128))),
        "real for complex": raised(lambda: (c * 2).backward(lib.ones(2, dtype=lib.float64))),
        "empty inputs": raised(lambda: (x * 2).sum().backward(inputs=[])),
        "inputs without grad": raised(lambda: (x * 2).sum().backward(inputs=[lib.ones(2)])),
        "no graph": raised(lambda: lib.ones(()).backward()),
        "detached": raised(lambda: (x.detach() * 2).sum().backward()),
        "no tensor": raised(lambda: backward(3)),
        "gradient no tensor": raised(lambda: (x * 2).backward(3)),
        "gradient a list": raised(lambda: (x * 2).backward([ones])),
        "grads too few": raised(lambda: backward([x * 2, x * 3], [ones])),
        "grad outputs no tensor": raised(lambda: lib.autograd.grad(x * 2, x, 3)),
        "empty outputs": raised(lambda: backward([])),
        "one element of two dims": raised(lambda: (x * 2)[:1].reshape(1, 1).backward()),
        "integer output": raised(lambda: x.argmax().backward()),
        "inside no_grad": raised(lambda: _under_no_grad(lib, x)),
        "requires grad cotangent": raised(lambda: (x * 2).backward(ones.clone().requires_grad_())),
    }


@case
def backward_of_what_is_no_tensor(lib):
    return raised(lambda: lib.autograd.backward("x")), raised(lambda: lib.autograd.backward([None]))


@case
def backward_with_more_gradients_than_tensors(lib):
    x, ones = leaf(lib, [1.0, 2.0]), lib.ones(2, dtype=lib.float64)
    return raised(lambda: lib.autograd.backward([x * 2], [ones, ones]))


@case
def create_graph_gradients_are_not_shared(lib):
    x, y = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 4.0])
    g = lib.ones(2, dtype=lib.float64)
    (x + y).backward(g, create_graph=True)
    with lib.no_grad():
        x.grad.add_(5)
    return x.grad, y.grad, g


def _under_no_grad(lib, x):
    with lib.no_grad():
        (x * 2).sum().backward()


@case
def broadcast_gradients_are_summed(lib):
    a, b, s = leaf(lib, [[1.0], [2.0]]), leaf(lib, [1.0, 2.0, 3.0]), leaf(lib, 4.0)
    one = leaf(lib, [[[2.0]]])
    ((a * b + s) / one).sum().backward()
    return a.grad, b.grad, s.grad, one.grad


def _function(lib, backward):
    class Given(lib.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a * b

        @staticmethod
        def backward(ctx, g):
            return backward(lib, g)
    return Given


for name, result in {
    "one_missing": lambda lib, g: g, "one_too_many": lambda lib, g: (g, g, g), "too_many_none": lambda lib, g:
    (g, g, None), "none": lambda lib, g: (None, None), "nothing": lambda lib, g: None,
    "wrong_shape": lambda lib, g: (g, g.reshape(-1)[:1].reshape(1, 1).expand(5, 5)),
    "transposed": lambda lib, g: (lib.ones(3, 2, dtype=lib.float64), g),
    "broadcasts_to_be_summed": lambda lib, g: (g.unsqueeze(0).expand(4, 2, 3), g),
    "expandable": lambda lib, g: (g.sum(), g), "expandable_row": lambda lib, g: (g[:1], g),
    "no_tensor": lambda lib, g: (g, 3.0), "list": lambda lib, g: [g, g], "float32": lambda lib, g:
    (g.to(lib.float32), g), "integer": lambda lib, g: (g.to(lib.int64), g), "complex":
    lambda lib, g: (g.to(lib.complex128) * (1 + 1j), g), "numpy": lambda lib, g: (g.detach().numpy(), g),
}.items():
    def _given(lib: Any, result: Any = result) -> Any:
        a, b = leaf(lib, [[1.0, 2.0, 3.0]] * 2), leaf(lib, [[1.0, 2.0, 3.0]] * 2)
        y = _function(lib, result).apply(a, b)
        kind = raised(lambda: y.sum().backward())
        return kind, (a.grad, b.grad) if kind == "nothing" else None
    case.add(f"user_gradient_{name}", _given)


@case
def cotangent_for_a_broadcast_parameter(lib):
    class Bias(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x, b):
            return x + b

        @staticmethod
        def backward(ctx, g):
            return g, g

    x, b = leaf(lib, [[1.0, 2.0], [3.0, 4.0]]), leaf(lib, [5.0, 6.0])
    (Bias.apply(x, b) ** 2).sum().backward()
    return x.grad, b.grad


@case
def long_chain(lib):
    x = leaf(lib, 1.0)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    y.backward()
    return x.grad


@case
def higher_orders(lib):
    x = leaf(lib, [0.5, 2.0])
    found, g = [], (x ** 5 + (x * 2).sin()).sum()
    for _ in range(4):
        (g,) = lib.autograd.grad(g.sum(), x, create_graph=True)
        found.append(g)
    return found


@case
def mixed_second_derivative_by_backward(lib):
    x, w = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 4.0])
    (g,) = lib.autograd.grad((x * x * w).sum(), x, create_graph=True)
    (g * g).sum().backward()
    return x.grad, w.grad


@case
def grad_outputs_that_require_grad(lib):
    x, v = leaf(lib, [1.0, 2.0]), leaf(lib, [1.0, 1.0])
    (g,) = lib.autograd.grad(x ** 3, x, v, create_graph=True)
    return g, lib.autograd.grad(g.sum(), [x, v])


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
