"""What the tests of ops share: inputs of one seed, and both gradient checks at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad._tensor.creation import from_numpy
from distgrad.autograd.gradcheck import gradcheck, gradgradcheck
from distgrad.graph.backward import grad

__all__ = ["check", "gradient", "leaf", "numbers"]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers, all different."""
    return np.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape))


def leaf(values: Any, dtype: Any = np.float64) -> Any:
    """A tensor that requires grad."""
    return from_numpy(np.array(values, dtype)).requires_grad_()


def check(function: Callable[..., Any], *arrays: Any, second: bool = True) -> None:
    """Gradients of `function` and (unless second is False) their gradients against finite differences."""
    inputs = [leaf(x) for x in arrays]
    assert gradcheck(function, inputs)
    if second:
        assert gradgradcheck(function, inputs)


def gradient(function: Callable[..., Any], *values: Any, cotangent: Any = None) -> Any:
    """The gradients of function's output in every float input; one array where there is one input."""
    inputs = [leaf(x) for x in values]
    y = function(*inputs)
    g = from_numpy(np.ones(y.shape) if cotangent is None else np.array(cotangent, np.float64))
    found = [None if part is None else part.numpy() for part in grad(y, inputs, g, allow_unused=True)]
    return found[0] if len(found) == 1 else found
