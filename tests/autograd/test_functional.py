"""autograd.functional against derivatives known in closed form, and its conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd.functional import hessian, hvp, jacobian, jvp, vhp, vjp


def double(*values: float) -> dg.Tensor:
    return dg.tensor(values, dtype=dg.float64)


X, Y, ONES = double(1, 2), double(3, 4), double(1, 1)


def square(x: Any) -> Any:
    return x**2


def cube_sum(x: Any) -> Any:
    return (x**3).sum()


def product_sum(x: Any, y: Any) -> Any:
    return (x * y).sum()


def two(x: Any, y: Any) -> Any:
    return x * y, x + y


def listed(value: Any) -> Any:
    """Tensors in nested tuples as nested lists."""
    return tuple(listed(v) for v in value) if isinstance(value, tuple) else value.tolist()


# (call, expected): a tuple in the arguments is a tuple in the result, one tensor is one tensor.
CASES: dict[str, tuple[Callable[[], Any], Any]] = {
    "vjp": (lambda: vjp(square, X, double(1, 10)), ([1, 4], [2, 40])),
    "vjp scalar": (lambda: vjp(cube_sum, X), (9, [3, 12])),
    "vjp tuples": (lambda: vjp(two, (X, Y), (ONES, ONES)), (([3, 8], [4, 6]), ([4, 5], [2, 3]))),
    "vjp tuple of one": (lambda: vjp(lambda x: (x * 2,), (X,), (ONES,)), (([2, 4],), ([2, 2],))),
    "vjp independent output": (lambda: vjp(lambda x: ONES, X, ONES), ([1, 1], [0, 0])),
    "vjp independent input": (lambda: vjp(lambda x, y: x * 2, (X, Y), ONES), ([2, 4], ([2, 2], [0, 0]))),
    "jvp": (lambda: jvp(square, X, double(1, 10)), ([1, 4], [2, 40])),
    "jvp one element": (lambda: jvp(square, double(2)), ([4], [4])),
    "jvp tuples": (lambda: jvp(two, (X, Y), (ONES, double(1, 2))), (([3, 8], [4, 6]), ([4, 8], [2, 3]))),
    "jvp independent output": (lambda: jvp(lambda x: ONES, X, ONES), ([1, 1], [0, 0])),
    "jvp independent input": (lambda: jvp(lambda x, y: x * 2, (X, Y), (ONES, ONES)), ([2, 4], [2, 2])),
    "jacobian": (lambda: jacobian(square, X), [[2, 0], [0, 4]]),
    "jacobian of a scalar": (lambda: jacobian(cube_sum, X), [3, 12]),
    "jacobian at a scalar": (lambda: jacobian(lambda x: x * X, dg.tensor(2.0, dtype=dg.float64)), [1, 2]),
    "jacobian tuples": (lambda: jacobian(lambda x, y: (x * y, x.sum()), (X, Y)),
                        (([[3, 0], [0, 4]], [[1, 0], [0, 2]]), ([1, 1], [0, 0]))),
    "jacobian tuple of one": (lambda: jacobian(lambda x: (x * 2,), (X,)), (([[2, 0], [0, 2]],),)),
    "jacobian one output tuple": (lambda: jacobian(lambda x: (x * 2,), X), ([[2, 0], [0, 2]],)),
    "jacobian one input tuple": (lambda: jacobian(lambda x: x * 2, (X,)), ([[2, 0], [0, 2]],)),
    "jacobian independent": (lambda: jacobian(lambda x: ONES, X), [[0, 0], [0, 0]]),
    "jacobian without rows": (lambda: jacobian(lambda x: x[:0], X).shape == (0, 2), True),
    "jacobian vectorized": (lambda: jacobian(square, X, vectorize=True), [[2, 0], [0, 4]]),
    "jacobian forward": (lambda: jacobian(square, X, vectorize=True, strategy="forward-mode"), [[2, 0], [0, 4]]),
    "hessian": (lambda: hessian(cube_sum, X), [[6, 0], [0, 12]]),
    "hessian of (1, 1)": (lambda: hessian(lambda x: cube_sum(x).reshape(1, 1), X), [[6, 0], [0, 12]]),
    "hessian tuples": (lambda: hessian(product_sum, (X, Y)),
                       (([[0, 0], [0, 0]], [[1, 0], [0, 1]]), ([[1, 0], [0, 1]], [[0, 0], [0, 0]]))),
    "hessian linear": (lambda: hessian(lambda x: x.sum(), X), [[0, 0], [0, 0]]),
    "hessian independent": (lambda: hessian(lambda x: double(1), X), [[0, 0], [0, 0]]),
    "vhp": (lambda: vhp(cube_sum, X, double(1, 10)), (9, [6, 120])),
    "hvp": (lambda: hvp(cube_sum, X, double(1, 10)), (9, [6, 120])),
    "vhp tuples": (lambda: vhp(product_sum, (X, Y), (ONES, X)), (11, ([1, 2], [1, 1]))),
    "hvp tuples": (lambda: hvp(product_sum, (X, Y), (ONES, X)), (11, ([1, 2], [1, 1]))),
    "vhp one element": (lambda: vhp(cube_sum, double(2)), (8, [12])),
    "hvp linear": (lambda: hvp(lambda x: x.sum(), X, ONES), (3, [0, 0])),
    "vhp linear": (lambda: vhp(lambda x: x.sum(), X, ONES), (3, [0, 0])),
    "vhp one input unused": (lambda: vhp(lambda x, y: cube_sum(x), (X, Y), (ONES, ONES)), (9, ([6, 12], [0, 0]))),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_conventions(name: str) -> None:
    call, expected = CASES[name]
    found = call()
    assert found is expected if expected is True else listed(found) == expected
    with dg.no_grad():
        found = call()
    assert found is expected if expected is True else listed(found) == expected


STRICT: dict[str, Callable[[], Any]] = {
    "vjp output": lambda: vjp(lambda x: ONES, X, ONES, strict=True),
    "vjp input": lambda: vjp(lambda x, y: x * 2, (X, Y), ONES, strict=True),
    "vjp constant": lambda: vjp(lambda x: x * 2, X, ONES, strict=True, create_graph=True),
    "jvp output": lambda: jvp(lambda x: ONES, X, ONES, strict=True),
    "jvp input": lambda: jvp(lambda x, y: x * 2, (X, Y), (ONES, ONES), strict=True),
    "jacobian output": lambda: jacobian(lambda x: ONES, X, strict=True),
    "jacobian input": lambda: jacobian(lambda x, y: x * 2, (X, Y), strict=True),
    "jacobian constant": lambda: jacobian(lambda x: x * 2, X, strict=True, create_graph=True),
    "jacobian vectorized": lambda: jacobian(square, X, strict=True, vectorize=True),
    "hessian linear": lambda: hessian(lambda x: x.sum(), X, strict=True),
    "hessian independent": lambda: hessian(lambda x: double(1), X, strict=True),
    "hessian input": lambda: hessian(lambda x, y: cube_sum(x), (X, Y), strict=True),
    "vhp linear": lambda: vhp(lambda x: x.sum(), X, ONES, strict=True),
    "hvp linear": lambda: hvp(lambda x: x.sum(), X, ONES, strict=True),
    "hvp input": lambda: hvp(lambda x, y: cube_sum(x), (X, Y), (ONES, ONES), strict=True),
}


@pytest.mark.parametrize("name", STRICT)
def test_strict_refuses_zeros(name: str) -> None:
    with pytest.raises(RuntimeError, match="strict"):
        STRICT[name]()


def test_strict_accepts_what_depends() -> None:
    assert listed(jvp(lambda x: x * 2, X, ONES, strict=True)) == ([2, 4], [2, 2])
    assert listed(jacobian(square, X, strict=True, create_graph=True)) == [[2, 0], [0, 4]]
    assert listed(hessian(cube_sum, X, strict=True)) == [[6, 0], [0, 12]]


ERRORS: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "no v": (RuntimeError, "left out", lambda: vjp(square, X)),
    "no v for jvp": (RuntimeError, "left out", lambda: jvp(square, X)),
    "v of another shape": (RuntimeError, r"\(3,\)", lambda: vjp(square, X, double(1, 1, 1))),
    "too many v": (RuntimeError, "v has", lambda: vjp(square, X, (ONES, ONES))),
    "input is a number": (TypeError, "inputs.*int", lambda: vjp(square, 3)),
    "input is a list": (TypeError, "inputs.*list", lambda: vjp(two, [X, Y], ONES)),
    "one input is a number": (TypeError, "number 1 is int", lambda: jacobian(two, (X, 3))),
    "output is a number": (TypeError, "outputs.*int", lambda: vjp(lambda x: 3, X)),
    "one output is a number": (TypeError, "number 1 is int", lambda: jacobian(lambda x: (x, 3), X)),
    "hessian of several elements": (RuntimeError, r"one element.*\(2,\)", lambda: hessian(square, X)),
    "hessian of a tuple": (RuntimeError, "one tensor", lambda: hessian(lambda x: (x.sum(), x.sum()), X)),
    "vhp of a tuple": (RuntimeError, "one tensor", lambda: vhp(lambda x: (x.sum(),), X, ONES)),
    "hvp of several elements": (RuntimeError, "one element", lambda: hvp(square, X, ONES)),
    "integer input": (RuntimeError, "floating", lambda: jacobian(lambda x: x * 2.0, dg.tensor([1, 2]))),
    "strategy": (AssertionError, "sideways", lambda: jacobian(square, X, strategy="sideways")),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    kind, message, call = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


def test_results_leave_the_graph_unless_asked_for() -> None:
    x = double(1, 2).requires_grad_()
    for call in (lambda **k: vjp(square, x, ONES, **k), lambda **k: jvp(square, x, ONES, **k),
                 lambda **k: (jacobian(square, x, **k),), lambda **k: (hessian(cube_sum, x, **k),),
                 lambda **k: vhp(cube_sum, x, ONES, **k), lambda **k: hvp(cube_sum, x, ONES, **k)):
        assert not any(t.requires_grad for t in call())
        found = call(create_graph=True)
        assert all(t.requires_grad for t in found)
        g, = dg.autograd.grad(found[-1].sum(), x)
        assert g.tolist() == [2, 2] or g.tolist() == [6, 6]
    assert x.grad is None


def test_create_graph_reaches_v() -> None:
    v = double(1, 10).requires_grad_()
    _, product = vjp(square, X, v, create_graph=True)
    g, = dg.autograd.grad(product.sum(), v)
    assert g.tolist() == [2, 4]
    _, product = jvp(square, X, v, create_graph=True)
    g, = dg.autograd.grad(product.sum(), v)
    assert g.tolist() == [2, 4]


def test_hvp_is_not_transposed() -> None:
    class Twisted(dg.autograd.Function):
        """Its 'gradient' is A x with A not symmetric: H v and v^T H differ."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return (x * x).sum() / 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * dg.matmul(dg.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=dg.float64), x)

    assert hvp(Twisted.apply, X, double(5, 7))[1].tolist() == [7, 0]
    assert vhp(Twisted.apply, X, double(5, 7))[1].tolist() == [0, 5]


def test_fortran_order_and_matrices() -> None:
    w = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    found = jacobian(lambda x: x * dg.from_numpy(w), dg.from_numpy(w.copy(order="F")))
    assert found.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(found.numpy().reshape(6, 6), np.diag(w.reshape(-1)))


def test_complex_vjp_and_jvp() -> None:
    z = dg.tensor([1 + 2j, 3 - 1j], dtype=dg.complex128)
    v = dg.tensor([1j, 2.0], dtype=dg.complex128)
    np.testing.assert_allclose(vjp(square, z, v)[1].numpy(), v.numpy() * np.conj(2 * z.numpy()))
    np.testing.assert_allclose(jvp(square, z, v)[1].numpy(), v.numpy() * 2 * z.numpy())


def test_jacobian_of_a_module() -> None:
    layer = dg.nn.Linear(3, 2)
    x = dg.randn(4, 3)
    found = jacobian(layer, x)
    assert found.shape == (4, 2, 4, 3)
    np.testing.assert_array_equal(found[1, :, 1].numpy(), layer.weight.detach().numpy())
    assert float(found[1, :, 2].abs().sum()) == 0 and layer.weight.grad is None
