"""LSTM and GRU layers: each step is one product and one kernel over the gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy

from ...base import of
from ...reference.recurrent import last, or_zeros, states_before, total_bias, weight_gradients
from .launch import fits, over_lines, plain

__all__ = ["gru_layer", "gru_layer_backward", "lstm_layer", "lstm_layer_backward"]


def _step(name: str, like: Any, batch: int, size: int, *args: Any) -> None:
    over_lines("recurrent", name, like.dtype, batch * size, *args, batch, size)


def lstm_layer(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
               reverse: bool) -> tuple[Any, ...]:
    if w_hr is not None or not fits(w_ih, w_hh) or x.dtype != w_ih.dtype:
        return plain("lstm_layer", x)(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse)
    steps, batch = x.shape[:2]
    size = w_ih.shape[0] // 4
    kernels = of(x).kernels
    gates = kernels.linear(x, w_ih, total_bias(b_ih, b_hh))
    cells = cupy.empty((steps + 1, batch, size), gates.dtype)
    bent = cupy.empty((steps, batch, size), gates.dtype)
    y = cupy.empty((steps, batch, size), gates.dtype)
    cells[steps if reverse else 0] = c0
    h = h0
    for t in range(steps - 1, -1, -1) if reverse else range(steps):
        own = kernels.linear(h, w_hh, None)
        _step("lstm_step", gates, batch, size, gates[t], own, cells[t + reverse], cells[t + (not reverse)], bent[t],
              y[t])
        h = y[t]
    return y, last(y, reverse), last(cells, reverse), gates, cells, bent


def lstm_layer_backward(gy: Any, gh: Any, gc: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, w_hr: Any, y: Any,
                        gates: Any, cells: Any, bent: Any, wanted: Sequence[bool], reverse: bool) -> tuple[Any, ...]:
    if w_hr is not None or not fits(gates, cells, bent):
        return plain("lstm_layer_backward", x)(gy, gh, gc, x, h0, w_ih, w_hh, w_hr, y, gates, cells, bent, wanted,
                                               reverse)
    steps, batch, size = bent.shape
    xp, kernels = of(x).xp, of(x).kernels
    dgates = cupy.empty(gates.shape, gates.dtype)
    dh, dc = or_zeros(xp, gh, h0), or_zeros(xp, gc, bent[0])
    for t in range(steps) if reverse else range(steps - 1, -1, -1):
        if gy is not None:
            dh = dh + gy[t]
        _step("lstm_step_backward", gates, batch, size, cupy.ascontiguousarray(dh), dc, gates[t], cells[t + reverse],
              bent[t], dgates[t])
        dh = kernels.linear_grad_input(dgates[t], w_hh)
    before = states_before(xp, y, h0, reverse)
    gx, gw_ih, gw_hh, gb_ih, gb_hh = weight_gradients(dgates, dgates, x, before, w_ih, wanted)
    return gx, dh, dc, gw_ih, gw_hh, gb_ih, gb_hh, None


def gru_layer(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool) -> tuple[Any, ...]:
    if not fits(w_ih, w_hh) or x.dtype != w_ih.dtype:
        return plain("gru_layer", x)(x, h0, w_ih, w_hh, b_ih, b_hh, reverse)
    steps, batch = x.shape[:2]
    size = w_ih.shape[0] // 3
    kernels = of(x).kernels
    gates = kernels.linear(x, w_ih, b_ih)
    inner = cupy.empty((steps, batch, size), gates.dtype)
    y = cupy.empty((steps, batch, size), gates.dtype)
    h = cupy.ascontiguousarray(h0)
    for t in range(steps - 1, -1, -1) if reverse else range(steps):
        own = kernels.linear(h, w_hh, b_hh)
        _step("gru_step", gates, batch, size, gates[t], own, h, inner[t], y[t])
        h = y[t]
    return y, last(y, reverse), gates, inner


def gru_layer_backward(gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, gates: Any, inner: Any,
                       wanted: Sequence[bool], reverse: bool) -> tuple[Any, ...]:
    if not fits(gates, inner):
        return plain("gru_layer_backward", x)(gy, gh, x, h0, w_ih, w_hh, y, gates, inner, wanted, reverse)
    steps, batch, size = inner.shape
    xp, kernels = of(x).xp, of(x).kernels
    before = states_before(xp, y, h0, reverse)
    on_input, on_state = cupy.empty(gates.shape, gates.dtype), cupy.empty(gates.shape, gates.dtype)
    dh = or_zeros(xp, gh, h0)
    for t in range(steps) if reverse else range(steps - 1, -1, -1):
        if gy is not None:
            dh += gy[t]
        _step("gru_step_backward", gates, batch, size, dh, gates[t], before[t], inner[t], on_input[t], on_state[t])
        dh += kernels.linear_grad_input(on_state[t], w_hh)
    gx, *rest = weight_gradients(on_input, on_state, x, before, w_ih, wanted)
    return gx, dh, *rest
