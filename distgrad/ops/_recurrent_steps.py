"""Recurrent layers step by step in plain ops: what the fused kernels compute, for second derivatives.

The same arguments as the kernels' forward, and the same outputs without what is kept for backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .linear import linear
from .pointwise import relu, sigmoid, tanh
from .shape import stack

__all__ = ["gru_steps", "lstm_steps", "rnn_steps"]


def _blocks(z: Any, count: int) -> list[Any]:
    """(B, count * H) as `count` blocks of (B, H)."""
    size = z.shape[1] // count
    return [z[:, k * size:(k + 1) * size] for k in range(count)]


def _run(x: Any, h: Any, w_ih: Any, b_ih: Any, reverse: bool, step: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """Apply `step(input product, h)` along time; the outputs (T, B, P) and the last h."""
    z = linear(x, w_ih, b_ih)
    steps = x.shape[0]
    outputs = [None] * steps
    for t in (range(steps - 1, -1, -1) if reverse else range(steps)):
        h = outputs[t] = step(z[t], h)
    return stack(outputs), h


def lstm_steps(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
               reverse: bool) -> tuple[Any, Any, Any]:
    """c = f * c + i * g;  h = o * tanh(c), projected by w_hr if given."""
    c = c0

    def step(z: Any, h: Any) -> Any:
        nonlocal c
        i, f, g, o = _blocks(z + linear(h, w_hh, b_hh), 4)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h if w_hr is None else linear(h, w_hr)

    y, h = _run(x, h0, w_ih, b_ih, reverse, step)
    return y, h, c


def gru_steps(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool) -> tuple[Any, Any]:
    """n = tanh(W_in x + b_in + r * (W_hn h + b_hn));  h = (1 - z) * n + z * h."""

    def step(z: Any, h: Any) -> Any:
        xr, xz, xn = _blocks(z, 3)
        hr, hz, hn = _blocks(linear(h, w_hh, b_hh), 3)
        n = tanh(xn + sigmoid(xr + hr) * hn)
        return n + sigmoid(xz + hz) * (h - n)

    return _run(x, h0, w_ih, b_ih, reverse, step)


def rnn_steps(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, nonlinearity: str,
              reverse: bool) -> tuple[Any, Any]:
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it."""
    bend = tanh if nonlinearity == "tanh" else relu
    return _run(x, h0, w_ih, b_ih, reverse, lambda z, h: bend(z + linear(h, w_hh, b_hh)))
