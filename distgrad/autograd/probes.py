"""Checks of gradients along random directions: one number for a whole Jacobian, and forward mode.

With L = Re sum(conj(u) * y), torch's convention makes dL = Re sum(conj(g) * dx) for any dx, real or complex.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._tensor.core import Tensor
from .._tensor.creation import as_tensor
from ..backend import of
from ..backend.random import Generator
from ..graph.backward import grad
from .forward_ad import dual_level, make_dual, unpack_dual

__all__ = ["GradcheckError", "check_projections", "check_tangents", "differentiable", "host", "random_like"]


class GradcheckError(RuntimeError):
    """An analytical gradient differs from the numerical one."""


def host(t: Tensor) -> np.ndarray:
    """A tensor's values as a numpy array."""
    return np.asarray(of(t.array).to_host(t.array))


def differentiable(outputs: Any) -> list[Tensor]:
    """The outputs that require grad."""
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    return [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]


def random_like(stream: Generator, y: Tensor) -> np.ndarray:
    """Normal numbers in the shape and dtype of `y`."""
    values = stream.numpy.standard_normal(y.shape)
    if y.dtype.kind == "c":
        values = values + 1j * stream.numpy.standard_normal(y.shape)
    return np.asarray(values).astype(y.dtype)


def _inner(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum(np.conj(a) * b).real)


def _difference(func: Callable[..., Any], inputs: list[Any], i: int, v: np.ndarray, eps: float) -> list[np.ndarray]:
    """The derivative of each output along v in input i, by central differences."""
    x = inputs[i]
    ends = []
    for step in (eps, -eps):
        moved = as_tensor(host(x) + step * v).to(x.device).requires_grad_()
        found = differentiable(func(*[moved if j == i else y for j, y in enumerate(inputs)]))
        ends.append([host(y.detach()).astype(np.result_type(y.dtype, np.float64)) for y in found])
    return [(plus - minus) / (2 * eps) for plus, minus in zip(*ends, strict=True)]


def check_projections(func: Callable[..., Any], inputs: list[Any], live: list[int], eps: float, atol: float,
                      rtol: float) -> None:
    """Compare Re sum(conj(u) * J v) for random u and v, for each input.

    Raises:
        GradcheckError: the two numbers differ.
        ValueError: no output requires grad.
    """
    stream = Generator(0xFA57)
    outputs = differentiable(func(*inputs))
    if not outputs:
        raise ValueError("gradcheck: no output requires grad")
    us = [random_like(stream, y) for y in outputs]
    cotangents = [as_tensor(u).to(y.device) for u, y in zip(us, outputs, strict=True)]
    found = grad(outputs, [inputs[i] for i in live], cotangents, allow_unused=True)
    for i, g in zip(live, found, strict=True):
        v = random_like(stream, inputs[i])
        v /= max(float(np.linalg.norm(v)), 1e-30)
        numerical = sum(_inner(u, d) for u, d in zip(us, _difference(func, inputs, i, v, eps), strict=True))
        analytical = 0.0 if g is None else _inner(host(g), v)
        if not np.isclose(analytical, numerical, rtol, atol, equal_nan=True):
            raise GradcheckError(f"input {i}: along a random direction the derivative is {analytical:.8g} analytically "
                                 f"and {numerical:.8g} numerically; without fast_mode the elements are named")


def check_tangents(func: Callable[..., Any], inputs: list[Any], live: list[int], eps: float, atol: float,
                   rtol: float) -> None:
    """Compare forward mode with central differences along one random direction, for each input.

    Raises:
        GradcheckError: a tangent differs; names output and input.
    """
    stream = Generator(0xF0D)
    for i in live:
        v = random_like(stream, inputs[i])
        with dual_level():
            dual = make_dual(inputs[i], as_tensor(v).to(inputs[i].device))
            outputs = differentiable(func(*[dual if j == i else x for j, x in enumerate(inputs)]))
            tangents = [unpack_dual(y).tangent for y in outputs]
        for number, (t, d) in enumerate(zip(tangents, _difference(func, inputs, i, v, eps), strict=True)):
            found = np.zeros_like(d) if t is None else host(t)
            if not np.allclose(found, d, rtol, atol, equal_nan=True):
                raise GradcheckError(f"output {number}, input {i}: forward mode gives\n{found}\nand central "
                                     f"differences give\n{d}")
