"""Activations of short vectors, and what their derivatives make of a cotangent.

The formulas are the reference's and the ops' own; where those lose digits to a difference of nearly equal numbers
(gelu of what is far below 0), these keep them.
"""

from __future__ import annotations

import math
from typing import Any

from numba.extending import intrinsic

from .vector_math import Emit, of_one

__all__ = ["gelu", "gelu_slope", "gelu_tanh", "gelu_tanh_slope", "log_sigmoid", "log_sigmoid_slope", "relu",
           "relu_slope", "sigmoid_slope", "silu", "silu_slope", "tanh_slope"]

_DENSITY = 1 / math.sqrt(2 * math.pi)
_SCALE, _CUBE = math.sqrt(2 / math.pi), 0.044715  # of gelu's tanh form


class _Activations(Emit):
    """A method `f` is y of x, `f_slope` is the gradient of x from g and either x or y, as the op says."""

    def _less(self, x: Any) -> Any:
        """1 - x"""
        return self.builder.fsub(self.number(1.0), x)

    def silu(self, x: Any) -> Any:
        """x * sigmoid(x)"""
        return self.builder.fmul(x, self.sigmoid(x))

    def silu_slope(self, g: Any, x: Any) -> Any:
        """g * s * (1 + x * (1 - s)) with s = sigmoid(x)"""
        s = self.sigmoid(x)
        return self.builder.fmul(g, self.builder.fmul(s, self.add(self.multiply(x, self._less(s)), self.number(1.0))))

    def log_sigmoid(self, x: Any) -> Any:
        """min(x, 0) - log(1 + e^-|x|)"""
        rest = self.log1p(self.exp(self.builder.fneg(self.absolute(x))))
        return self.builder.fsub(self.choose(">", x, self.number(0.0), self.number(0.0), x), rest)

    def log_sigmoid_slope(self, g: Any, x: Any) -> Any:
        """g * sigmoid(-x)"""
        return self.builder.fmul(g, self.sigmoid(self.builder.fneg(x)))

    def gelu(self, x: Any) -> Any:
        """x * P(X <= x) for a normal X"""
        return self.builder.fmul(x, self.normal(x)[0])

    def gelu_slope(self, g: Any, x: Any) -> Any:
        """g * (P(X <= x) + x * the density at x)"""
        below, e = self.normal(x)
        density = self.builder.fmul(e, self.number(_DENSITY))
        return self.builder.fmul(g, self.add(self.multiply(x, density), below))

    def _gelu_gate(self, x: Any) -> tuple[Any, Any]:
        """(sigmoid(2 u), x^2), where tanh(u) is in the formula: (1 + tanh(u)) / 2 is sigmoid(2 u)."""
        square = self.builder.fmul(x, x)
        inner = self.add(self.multiply(square, self.number(2 * _SCALE * _CUBE)), self.number(2 * _SCALE))
        return self.sigmoid(self.builder.fmul(x, inner)), square

    def gelu_tanh(self, x: Any) -> Any:
        """x * (1 + tanh(u)) / 2"""
        return self.builder.fmul(x, self._gelu_gate(x)[0])

    def gelu_tanh_slope(self, g: Any, x: Any) -> Any:
        """g * (s + x * s * (1 - s) * du) with s = sigmoid(2 u) and du the derivative of 2 u"""
        s, square = self._gelu_gate(x)
        du = self.add(self.multiply(square, self.number(6 * _SCALE * _CUBE)), self.number(2 * _SCALE))
        bend = self.multiply(self.builder.fmul(x, self.builder.fmul(s, self._less(s))), du)
        return self.builder.fmul(g, self.add(bend, s))

    def tanh_slope(self, g: Any, y: Any) -> Any:
        """g * (1 - y * y)"""
        return self.builder.fmul(g, self._less(self.builder.fmul(y, y)))

    def sigmoid_slope(self, g: Any, y: Any) -> Any:
        """g * (y * (1 - y))"""
        return self.builder.fmul(g, self.builder.fmul(y, self._less(y)))

    def relu(self, x: Any) -> Any:
        """max(x, 0); NaN stays NaN"""
        zero = self.number(0.0)
        return self.choose("<", x, zero, zero, x)

    def relu_slope(self, g: Any, y: Any) -> Any:
        """g * (0 where y <= 0, else 1)"""
        zero = self.number(0.0)
        return self.builder.fmul(g, self.choose("<=", y, zero, zero, self.number(1.0)))


def _of_two(name: str) -> Any:
    """A method as a function of two vectors, for loops."""

    def typed(typing: Any, g: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(_Activations(builder, x.element), name)(*arguments)

        return x(g, x), code

    typed.__doc__ = getattr(_Activations, name).__doc__
    return intrinsic(typed)


relu = of_one(_Activations, "relu")
silu = of_one(_Activations, "silu")
log_sigmoid = of_one(_Activations, "log_sigmoid")
gelu = of_one(_Activations, "gelu")
gelu_tanh = of_one(_Activations, "gelu_tanh")
tanh_slope = _of_two("tanh_slope")
sigmoid_slope = _of_two("sigmoid_slope")
relu_slope = _of_two("relu_slope")
silu_slope = _of_two("silu_slope")
log_sigmoid_slope = _of_two("log_sigmoid_slope")
gelu_slope = _of_two("gelu_slope")
gelu_tanh_slope = _of_two("gelu_tanh_slope")
