"""What the tests of neural network ops share: random leaves and the check of all derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import distgrad as dg
from distgrad.autograd import grad, gradcheck, gradgradcheck

__all__ = ["check_derivatives", "constant", "first_order", "leaf"]


def leaf(*shape: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0, dtype: str = "float64") -> Any:
    """A random tensor that requires grad."""
    values = np.random.default_rng((seed, *shape)).standard_normal(shape) * scale + shift
    return dg.tensor(values.astype(dtype), requires_grad=True)


def constant(values: Any, dtype: str | None = None) -> Any:
    """A tensor that does not require grad."""
    return dg.tensor(np.asarray(values, dtype))


def _outputs(y: Any) -> list[Any]:
    if isinstance(y, (tuple, list)):
        return [part for whole in y for part in _outputs(whole)]
    return [y] if y.requires_grad else []


def first_order(function: Callable[..., Any], inputs: list[Any], create_graph: bool = False) -> list[Any]:
    """Gradients of all live inputs for fixed cotangents, as arrays (None where there is none)."""
    ys = _outputs(function(*inputs))
    cotangents = [constant(np.random.default_rng((7, i)).standard_normal(y.shape), y.dtype)
                  for i, y in enumerate(ys)]
    live = [x for x in inputs if x is not None and x.requires_grad]
    found = grad(ys, live, cotangents, create_graph=create_graph, allow_unused=True)
    return [None if g is None else g.detach().numpy() for g in found]


def check_derivatives(function: Callable[..., Any], *inputs: Any) -> None:
    """Finite differences of first and second order; and both ways to the first order give the same."""
    live = [x for x in inputs if x is not None]

    def flat(*args: Any) -> tuple[Any, ...]:
        given = iter(args)
        return tuple(_outputs(function(*[None if x is None else next(given) for x in inputs])))

    assert gradcheck(flat, live)
    assert gradgradcheck(flat, live)
    for kernel, formula in zip(first_order(flat, live), first_order(flat, live, create_graph=True), strict=True):
        np.testing.assert_allclose(kernel, formula, rtol=1e-9, atol=1e-10)
