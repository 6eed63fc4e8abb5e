"""LSTM, GRU and plain recurrent layers: each step is one product and one kernel, and allocates nothing.

What a step reads and writes is prepared before the loop; kernels get whole sequences and the number of the step. The
state's part of the gates is added where they lie, by the product itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cupy
import numpy as np

from ...base import of
from ...reference.recurrent import last, or_zeros, states_before, total_bias, weight_gradients
from .launch import add_family, fits, plain, steps_over
from .products import Product
from .steps import CODE

__all__ = ["gru_layer", "gru_layer_backward", "lstm_layer", "lstm_layer_backward", "rnn_layer", "rnn_layer_backward"]

add_family("recurrent", CODE)


def _in_order(steps: int, reverse: bool) -> range:
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _run(order: Iterable[int], step: Callable[[Any], None], product: Callable[[int, int, int], None],
         operands: Callable[[int], tuple[int, int, int]], product_first: bool) -> None:
    """The loop over time: of each step the product and the kernel, in either order."""
    for t in order:
        if product_first:
            product(*operands(t))
        step(np.int64(t))
        if not product_first:
            product(*operands(t))


def _forward(name: str, h0: Any, w_hh: Any, y: Any, into: Any, add: bool, reverse: bool, *args: Any) -> None:
    """All steps: into[t] = (or +=) h w_hh^T, then the kernel; `into` without a dimension of time is used again."""
    steps, batch, size = y.shape
    wide = w_hh.shape[0]
    product = Product(y.dtype, batch, wide, size, (False, size), (True, size), wide, add)
    step = steps_over("recurrent", name, y.dtype, batch * size, *args, batch, size)
    h, weight, outputs, target = h0.data.ptr, w_hh.data.ptr, y.data.ptr, into.data.ptr
    row = batch * size * y.itemsize
    jump = batch * wide * y.itemsize if into.ndim == 3 else 0
    first = steps - 1 if reverse else 0
    back = row if reverse else -row  # from a step's output to that of the step before

    def operands(t: int) -> tuple[int, int, int]:
        return h if t == first else outputs + t * row + back, weight, target + t * jump

    _run(_in_order(steps, reverse), step, product, operands, True)


def _backward(name: str, dgates: Any, w_hh: Any, dh: Any, add: bool, reverse: bool, *args: Any) -> None:
    """All steps, the last first: the kernel, then dh = (or +=) dgates[t] w_hh."""
    steps, batch, wide = dgates.shape
    size = w_hh.shape[1]
    product = Product(dgates.dtype, batch, size, wide, (False, wide), (False, size), size, add)
    step = steps_over("recurrent", name, dgates.dtype, batch * size, *args, batch, size)
    gates, weight, target = dgates.data.ptr, w_hh.data.ptr, dh.data.ptr
    row = batch * wide * dgates.itemsize
    _run(_in_order(steps, not reverse), step, product, lambda t: (gates + t * row, weight, target), False)


def _whole(g: Any, like: Any) -> Any:
    """Cotangents of the outputs as kernels read them; None where none arrived."""
    return None if g is None else cupy.ascontiguousarray(g, like.dtype)


def _takes(x: Any, h0: Any, *weights: Any) -> bool:
    return bool(x.size and h0.size) and fits(*weights) and x.dtype == weights[0].dtype


def lstm_layer(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
               reverse: bool) -> tuple[Any, ...]:
    if w_hr is not None or not _takes(x, h0, w_ih, w_hh):
        return plain("lstm_layer", x)(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse)
    steps, batch = x.shape[:2]
    size = w_ih.shape[0] // 4
    gates = of(x).kernels.linear(x, w_ih, total_bias(b_ih, b_hh))
    cells = cupy.empty((steps + 1, batch, size), gates.dtype)
    bent, y = (cupy.empty((steps, batch, size), gates.dtype) for _ in range(2))
    cells[steps if reverse else 0] = c0
    _forward("lstm_step", _whole(h0, gates), w_hh, y, gates, True, reverse, gates, cells, bent, y, bool(reverse))
    return y, last(y, reverse), last(cells, reverse), gates, cells, bent


def lstm_layer_backward(gy: Any, gh: Any, gc: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, w_hr: Any, y: Any,
                        gates: Any, cells: Any, bent: Any, wanted: Sequence[bool], reverse: bool) -> tuple[Any, ...]:
    if w_hr is not None or not bent.size or not fits(gates, cells, bent, w_hh):
        return plain("lstm_layer_backward", x)(gy, gh, gc, x, h0, w_ih, w_hh, w_hr, y, gates, cells, bent, wanted,
                                               reverse)
    xp = of(x).xp
    dgates = cupy.empty(gates.shape, gates.dtype)
    dh, dc = or_zeros(xp, gh, h0), or_zeros(xp, gc, bent[0])
    _backward("lstm_step_backward", dgates, w_hh, dh, False, reverse, _whole(gy, gates), dh, dc, gates, cells, bent,
              dgates, bool(reverse))
    before = states_before(xp, y, h0, reverse)
    gx, gw_ih, gw_hh, gb_ih, gb_hh = weight_gradients(dgates, dgates, x, before, w_ih, wanted)
    return gx, dh, dc, gw_ih, gw_hh, gb_ih, gb_hh, None


def gru_layer(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool) -> tuple[Any, ...]:
    if not _takes(x, h0, w_ih, w_hh, b_hh):
        return plain("gru_layer", x)(x, h0, w_ih, w_hh, b_ih, b_hh, reverse)
    steps, batch = x.shape[:2]
    size = w_ih.shape[0] // 3
    gates = of(x).kernels.linear(x, w_ih, b_ih)
    inner, y = (cupy.empty((steps, batch, size), gates.dtype) for _ in range(2))
    own = cupy.empty((batch, 3 * size), gates.dtype)  # the state's part: that of n is multiplied before it is added
    h0 = _whole(h0, gates)
    _forward("gru_step", h0, w_hh, y, own, False, reverse, gates, own, b_hh, h0, inner, y, steps, bool(reverse))
    return y, last(y, reverse), gates, inner


def gru_layer_backward(gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, gates: Any, inner: Any,
                       wanted: Sequence[bool], reverse: bool) -> tuple[Any, ...]:
    if not inner.size or not fits(gates, inner, w_hh):
        return plain("gru_layer_backward", x)(gy, gh, x, h0, w_ih, w_hh, y, gates, inner, wanted, reverse)
    xp = of(x).xp
    before = states_before(xp, y, h0, reverse)
    on_input, on_state = (cupy.empty(gates.shape, gates.dtype) for _ in range(2))
    dh = or_zeros(xp, gh, h0)
    _backward("gru_step_backward", on_state, w_hh, dh, True, reverse, _whole(gy, gates), dh, gates, before, inner,
              on_input, on_state)
    gx, *rest = weight_gradients(on_input, on_state, x, before, w_ih, wanted)
    return gx, dh, *rest


def rnn_layer(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, nonlinearity: str,
              reverse: bool) -> tuple[Any, Any]:
    if not _takes(x, h0, w_ih, w_hh):
        return plain("rnn_layer", x)(x, h0, w_ih, w_hh, b_ih, b_hh, nonlinearity, reverse)
    y = of(x).kernels.linear(x, w_ih, total_bias(b_ih, b_hh))
    _forward("rnn_step", _whole(h0, y), w_hh, y, y, True, reverse, y, nonlinearity == "tanh")
    return y, last(y, reverse)


def rnn_layer_backward(gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, wanted: Sequence[bool],
                       nonlinearity: str, reverse: bool) -> tuple[Any, ...]:
    if not y.size or not fits(y, w_hh):
        return plain("rnn_layer_backward", x)(gy, gh, x, h0, w_ih, w_hh, y, wanted, nonlinearity, reverse)
    xp = of(x).xp
    d, dh = cupy.empty(y.shape, y.dtype), or_zeros(xp, gh, h0)
    _backward("rnn_step_backward", d, w_hh, dh, False, reverse, _whole(gy, y), dh, y, d, nonlinearity == "tanh")
    gx, *rest = weight_gradients(d, d, x, states_before(xp, y, h0, reverse), w_ih, wanted)
    return gx, dh, *rest
