"""Recurrent layers with all steps in one call: products by weights that lie as panels, and one pass over the gates.

What is kept for backward has the reference's layout, so that either may go on with what the other began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base import of
from ..reference.recurrent import gru_layer as _reference_gru
from ..reference.recurrent import gru_layer_backward as _reference_gru_backward
from ..reference.recurrent import last, or_zeros, states_before, total_bias, weight_gradients
from ..reference.recurrent import lstm_layer as _reference_lstm
from ..reference.recurrent import lstm_layer_backward as _reference_lstm_backward
from ..reference.recurrent import rnn_layer as _reference_rnn
from ..reference.recurrent import rnn_layer_backward as _reference_rnn_backward
from ._memory import NAMES, address
from .native import Loop

__all__ = ["gru_layer", "gru_layer_backward", "lstm_layer", "lstm_layer_backward", "rnn_layer", "rnn_layer_backward"]

_LAY_OUT = Loop("recurrent", "lay_out", "TTnnnn")
_LSTM = Loop("recurrent", "lstm", "T" * 9 + "n" * 6)
_LSTM_BACKWARD = Loop("recurrent", "lstm_backward", "T" * 11 + "n" * 7)
_GRU = Loop("recurrent", "gru", "T" * 8 + "n" * 4)
_GRU_BACKWARD = Loop("recurrent", "gru_backward", "T" * 9 + "n" * 5)
_RNN = Loop("recurrent", "rnn", "T" * 5 + "n" * 5)
_RNN_BACKWARD = Loop("recurrent", "rnn_backward", "T" * 6 + "n" * 6)

_FEWEST = 5   # steps; with less, laying out the weights costs what it saves
_WIDEST = 64  # columns of a panel, at most, on any processor
_TILE = 256   # elements of a tile, at most, on any processor


def _loop(loop: Loop, x: Any, *others: Any) -> Any:
    """The compiled loop for these arrays; None where it is not worth it, dtypes differ, or one is empty."""
    dtype = NAMES.get(x.dtype)
    if dtype is None or x.shape[0] < _FEWEST or not x.size \
            or any(a is not None and (a.dtype != x.dtype or not a.size) for a in others) or _LAY_OUT(dtype) is None:
        return None
    return loop(dtype)


def _ready(x: Any) -> Any:
    """An array as loops can read it, copied if it is not."""
    return x if x.flags.carray else np.require(x, requirements="CAW")


def _panels(w: Any, across: bool) -> Any:
    """Panels of w, or of w.T with `across`."""
    w = _ready(w)
    depth, size = w.shape[::-1] if across else w.shape
    panels = np.empty(depth * (size + _WIDEST - 1), w.dtype)
    strides = (1, depth) if across else (size, 1)
    _LAY_OUT(NAMES[w.dtype])(address(w), address(panels), depth, size, *strides)
    return panels


def _bias(b_ih: Any, b_hh: Any, like: Any) -> Any:
    return np.zeros(like.shape[0], like.dtype) if b_ih is None else total_bias(b_ih, b_hh)


def _input_product(x: Any, w_ih: Any) -> Any:
    return _ready(of(x).kernels.linear(x, w_ih, None))


def lstm_layer(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
               reverse: bool) -> tuple[Any, ...]:
    """As the reference: (y, h, c) and what backward needs."""
    loop = _loop(_LSTM, x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr)
    if loop is None:
        return _reference_lstm(np, x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse)
    steps, batch = x.shape[:2]
    outputs, size = w_hh.shape[1], w_hh.shape[0] // 4
    gates = _input_product(x, w_ih)
    cells = np.empty((steps + 1, batch, size), x.dtype)
    bent = np.empty((steps, batch, size), x.dtype)
    y = np.empty((steps, batch, outputs), x.dtype)
    room = np.zeros(_TILE + batch * size, x.dtype)
    cells[steps if reverse else 0] = c0
    loop(address(gates), address(_bias(b_ih, b_hh, w_ih)), address(_panels(w_hh, True)),
         address(room if w_hr is None else _panels(w_hr, True)), address(cells), address(bent), address(y),
         address(_ready(h0)), address(room), steps, batch, size, outputs, reverse, w_hr is not None)
    return y, last(y, reverse), last(cells, reverse), gates, cells, bent


def lstm_layer_backward(gy: Any, gh: Any, gc: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, w_hr: Any, y: Any,
                        gates: Any, cells: Any, bent: Any, wanted: Sequence[bool], reverse: bool) -> tuple[Any, ...]:
    """As the reference: gradients of (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr)."""
    loop = _loop(_LSTM_BACKWARD, x, gy, h0, w_ih, w_hh, w_hr)
    if loop is None:
        return _reference_lstm_backward(np, gy, gh, gc, x, h0, w_ih, w_hh, w_hr, y, gates, cells, bent, wanted,
                                        reverse)
    steps, batch, size = bent.shape
    dgates = np.empty(gates.shape, x.dtype)
    room = np.zeros(_TILE + batch * size, x.dtype)
    projected = room if w_hr is None else np.empty(y.shape, x.dtype)
    dh, dc = or_zeros(np, gh, h0), or_zeros(np, gc, bent[0])
    loop(address(room if gy is None else _ready(gy)), address(dh), address(dc), address(_panels(w_hh, False)),
         address(room if w_hr is None else _panels(w_hr, False)), address(_ready(gates)), address(_ready(cells)),
         address(_ready(bent)), address(dgates), address(projected), address(room), steps, batch, size, w_hh.shape[1],
         reverse, gy is not None, w_hr is not None)
    gx, *rest = weight_gradients(dgates, dgates, x, states_before(np, y, h0, reverse), w_ih, wanted)
    gw_hr = None
    if w_hr is not None:
        gw_hr = of(x).kernels.linear_grad_weight(projected, gates[..., 3 * size:] * bent)
    return gx, dh, dc, *rest, gw_hr


def gru_layer(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool) -> tuple[Any, ...]:
    """As the reference: (y, h) and what backward needs."""
    loop = _loop(_GRU, x, h0, w_ih, w_hh, b_ih, b_hh)
    if loop is None:
        return _reference_gru(np, x, h0, w_ih, w_hh, b_ih, b_hh, reverse)
    steps, batch = x.shape[:2]
    size = w_hh.shape[1]
    gates = _input_product(x, w_ih)
    inner = np.empty((steps, batch, size), x.dtype)
    y = np.empty((steps, batch, size), x.dtype)
    bias = np.zeros(4 * size, x.dtype)
    if b_ih is not None:
        bias[:3 * size] = b_ih
        bias[:2 * size] += b_hh[:2 * size]
        bias[3 * size:] = b_hh[2 * size:]
    loop(address(gates), address(bias), address(_panels(w_hh[:2 * size], True)),
         address(_panels(w_hh[2 * size:], True)), address(inner), address(y), address(_ready(h0)),
         address(np.zeros(_TILE, x.dtype)), steps, batch, size, reverse)
    return y, last(y, reverse), gates, inner


def gru_layer_backward(gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, gates: Any, inner: Any,
                       wanted: Sequence[bool], reverse: bool) -> tuple[Any, ...]:
    """As the reference: gradients of (x, h0, w_ih, w_hh, b_ih, b_hh)."""
    loop = _loop(_GRU_BACKWARD, x, gy, h0, w_ih, w_hh)
    if loop is None:
        return _reference_gru_backward(np, gy, gh, x, h0, w_ih, w_hh, y, gates, inner, wanted, reverse)
    steps, batch, size = inner.shape
    on_input, on_state = np.empty(gates.shape, x.dtype), np.empty(gates.shape, x.dtype)
    room = np.zeros(_TILE, x.dtype)
    dh, before = or_zeros(np, gh, h0), states_before(np, y, h0, reverse)
    loop(address(room if gy is None else _ready(gy)), address(dh), address(_panels(w_hh, False)),
         address(_ready(gates)), address(_ready(inner)), address(before), address(on_input), address(on_state),
         address(room), steps, batch, size, reverse, gy is not None)
    gx, *rest = weight_gradients(on_input, on_state, x, before, w_ih, wanted)
    return gx, dh, *rest


def rnn_layer(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, nonlinearity: str,
              reverse: bool) -> tuple[Any, Any]:
    """As the reference: (y, h)."""
    loop = _loop(_RNN, x, h0, w_ih, w_hh, b_ih, b_hh)
    if loop is None:
        return _reference_rnn(np, x, h0, w_ih, w_hh, b_ih, b_hh, nonlinearity, reverse)
    steps, batch = x.shape[:2]
    y = _input_product(x, w_ih)
    loop(address(y), address(_bias(b_ih, b_hh, w_ih)), address(_panels(w_hh, True)), address(_ready(h0)),
         address(np.zeros(_TILE, x.dtype)), steps, batch, w_hh.shape[0], reverse, nonlinearity == "tanh")
    return y, last(y, reverse)


def rnn_layer_backward(gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, wanted: Sequence[bool],
                       nonlinearity: str, reverse: bool) -> tuple[Any, ...]:
    """As the reference: gradients of (x, h0, w_ih, w_hh, b_ih, b_hh)."""
    loop = _loop(_RNN_BACKWARD, x, gy, h0, w_ih, w_hh)
    if loop is None:
        return _reference_rnn_backward(np, gy, gh, x, h0, w_ih, w_hh, y, wanted, nonlinearity, reverse)
    steps, batch, size = y.shape
    d = np.empty(y.shape, x.dtype)
    room = np.zeros(_TILE, x.dtype)
    dh = or_zeros(np, gh, h0)
    loop(address(room if gy is None else _ready(gy)), address(dh), address(_panels(w_hh, False)),
         address(_ready(y)), address(d), address(room), steps, batch, size, reverse, gy is not None,
         nonlinearity == "tanh")
    gx, *rest = weight_gradients(d, d, x, states_before(np, y, h0, reverse), w_ih, wanted)
    return gx, dh, *rest
