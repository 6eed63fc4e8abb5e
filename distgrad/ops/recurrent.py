"""LSTM, GRU and plain recurrent networks over whole sequences: one fused op for each layer and direction.

Stacking layers, directions and the dropout between them is written once, for all three kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._checks import check_floating, check_same_dtype
from ._composite import composite_vjp
from ._recurrent_steps import gru_steps, lstm_steps, rnn_steps
from .dropout import dropout as drop
from .shape import cat, stack, transpose

__all__ = ["GRULayer", "LSTMLayer", "RNNLayer", "gru", "lstm", "rnn_relu", "rnn_tanh"]


class LSTMLayer(Function):
    """One layer of an LSTM in one direction: (y, h, c)."""

    name = "LSTM"

    def forward(ctx: Any, x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
                reverse: bool) -> Any:
        y, h, c, *kept = of(x).kernels.lstm_layer(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse)
        ctx.save(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, y, *kept)
        ctx.reverse = reverse
        return y, h, c

    def vjp(ctx: Any, g: Any) -> Any:
        *inputs, y, gates, cells, bent = ctx.saved
        if _recorded(g):
            return composite_vjp(lambda *args: lstm_steps(*args, ctx.reverse), tuple(inputs), g)
        x, h0, _, w_ih, w_hh, _, _, w_hr = inputs
        return of(x).kernels.lstm_layer_backward(*g, x, h0, w_ih, w_hh, w_hr, y, gates, cells, bent,
                                                 _wanted(ctx, 0, 3, 4, 5, 6), ctx.reverse)


class GRULayer(Function):
    """One layer of a GRU in one direction: (y, h)."""

    name = "GRU"

    def forward(ctx: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool) -> Any:
        y, h, *kept = of(x).kernels.gru_layer(x, h0, w_ih, w_hh, b_ih, b_hh, reverse)
        ctx.save(x, h0, w_ih, w_hh, b_ih, b_hh, y, *kept)
        ctx.reverse = reverse
        return y, h

    def vjp(ctx: Any, g: Any) -> Any:
        *inputs, y, gates, inner = ctx.saved
        if _recorded(g):
            return composite_vjp(lambda *args: gru_steps(*args, ctx.reverse), tuple(inputs), g)
        x, h0, w_ih, w_hh, _, _ = inputs
        return of(x).kernels.gru_layer_backward(*g, x, h0, w_ih, w_hh, y, gates, inner, _wanted(ctx, 0, 2, 3, 4, 5),
                                                ctx.reverse)


class RNNLayer(Function):
    """One layer of a plain recurrent network in one direction: (y, h)."""

    name = "RNN"

    def forward(ctx: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, nonlinearity: str,
                reverse: bool) -> Any:
        y, h = of(x).kernels.rnn_layer(x, h0, w_ih, w_hh, b_ih, b_hh, nonlinearity, reverse)
        ctx.save(x, h0, w_ih, w_hh, b_ih, b_hh, y)
        ctx.nonlinearity, ctx.reverse = nonlinearity, reverse
        return y, h

    def vjp(ctx: Any, g: Any) -> Any:
        *inputs, y = ctx.saved
        if _recorded(g):
            return composite_vjp(lambda *args: rnn_steps(*args, ctx.nonlinearity, ctx.reverse), tuple(inputs), g)
        x, h0, w_ih, w_hh, _, _ = inputs
        return of(x).kernels.rnn_layer_backward(*g, x, h0, w_ih, w_hh, y, _wanted(ctx, 0, 2, 3, 4, 5),
                                                ctx.nonlinearity, ctx.reverse)


def _recorded(g: list[Any]) -> bool:
    """Whether this backward records: then cotangents are tensors."""
    return any(isinstance(part, TensorBase) for part in g)


def _wanted(ctx: Any, *places: int) -> tuple[bool, ...]:
    """Which of the inputs at these places want a gradient: those of whole gemms are not computed for nothing."""
    return tuple([ctx.needs(i) for i in places])


def lstm(input: Any, hx: tuple[Any, Any], weights: Sequence[Any], *, num_layers: int = 1, bidirectional: bool = False,
         batch_first: bool = False, dropout: float = 0.0, training: bool = False, proj_size: int = 0,
         bias: bool = True) -> tuple[Any, tuple[Any, Any]]:
    """An LSTM over a sequence: c = f * c + i * g, h = o * tanh(c); gates in the order i, f, g, o.

    Args:
        input: (time, batch, features), or (batch, time, features) with `batch_first`.
        hx: h0 (layers * directions, batch, P) and c0 (layers * directions, batch, H); P is `proj_size`, or H.
        weights: for each layer and direction w_ih (4H, in), w_hh (4H, P), with `bias` b_ih and b_hh (4H,),
            and with `proj_size` w_hr (P, H); layers first, then directions.
        dropout: the probability on each layer's output but the last's, in training.

    Returns:
        (output (time, batch, P * directions), (h_n, c_n)), like the input with `batch_first`.

    Raises:
        RuntimeError: shapes, dtypes or the number of weights do not fit.
    """
    def layer(x: Any, state: tuple[Any, ...], group: tuple[Any, ...], reverse: bool) -> Any:
        return LSTMLayer.apply(x, *state, *group, reverse=reverse)

    y, states = _stacked("lstm", layer, 4, input, tuple(hx), weights, num_layers, bidirectional, batch_first, dropout,
                         training, bias, proj_size)
    return y, (states[0], states[1])


def gru(input: Any, hx: Any, weights: Sequence[Any], *, num_layers: int = 1, bidirectional: bool = False,
        batch_first: bool = False, dropout: float = 0.0, training: bool = False,
        bias: bool = True) -> tuple[Any, Any]:
    """A GRU over a sequence; gates in the order r, z, n. Arguments as for `lstm`, with one state h0.

    Returns:
        (output, h_n).
    """
    def layer(x: Any, state: tuple[Any, ...], group: tuple[Any, ...], reverse: bool) -> Any:
        return GRULayer.apply(x, *state, *group[:4], reverse=reverse)

    y, states = _stacked("gru", layer, 3, input, (hx,), weights, num_layers, bidirectional, batch_first, dropout,
                         training, bias)
    return y, states[0]


def _rnn(nonlinearity: str, input: Any, hx: Any, weights: Sequence[Any], num_layers: int, bidirectional: bool,
         batch_first: bool, dropout: float, training: bool, bias: bool) -> tuple[Any, Any]:
    def layer(x: Any, state: tuple[Any, ...], group: tuple[Any, ...], reverse: bool) -> Any:
        return RNNLayer.apply(x, *state, *group[:4], nonlinearity=nonlinearity, reverse=reverse)

    y, states = _stacked(f"rnn_{nonlinearity}", layer, 1, input, (hx,), weights, num_layers, bidirectional,
                         batch_first, dropout, training, bias)
    return y, states[0]


def rnn_tanh(input: Any, hx: Any, weights: Sequence[Any], *, num_layers: int = 1, bidirectional: bool = False,
             batch_first: bool = False, dropout: float = 0.0, training: bool = False,
             bias: bool = True) -> tuple[Any, Any]:
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh) along a sequence; arguments and results as for `gru`."""
    return _rnn("tanh", input, hx, weights, num_layers, bidirectional, batch_first, dropout, training, bias)


def rnn_relu(input: Any, hx: Any, weights: Sequence[Any], *, num_layers: int = 1, bidirectional: bool = False,
             batch_first: bool = False, dropout: float = 0.0, training: bool = False,
             bias: bool = True) -> tuple[Any, Any]:
    """rnn_tanh with relu instead of tanh."""
    return _rnn("relu", input, hx, weights, num_layers, bidirectional, batch_first, dropout, training, bias)


def _stacked(name: str, layer: Callable[..., Any], gates: int, x: Any, state: tuple[Any, ...], weights: Sequence[Any],
             num_layers: int, bidirectional: bool, batch_first: bool, p: float, training: bool, bias: bool,
             proj_size: int = 0) -> tuple[Any, tuple[Any, ...]]:
    """All layers and directions; the output and, for each kind of state, the last ones stacked."""
    directions = 2 if bidirectional else 1
    groups = _grouped(name, weights, num_layers * directions, bias, proj_size > 0)
    if len(x.shape) != 3:
        raise RuntimeError(f"{name}: the input is (time, batch, features), got shape {tuple(x.shape)}")
    if batch_first:
        x = transpose(x, 0, 1)
    _check(name, x, state, groups, gates, num_layers, directions, proj_size)
    ends: list[tuple[Any, ...]] = []
    for level in range(num_layers):
        outputs = []
        for direction in range(directions):
            k = level * directions + direction
            y, *last = layer(x, tuple(s[k] for s in state), groups[k], direction == 1)
            outputs.append(y)
            ends.append(tuple(last))
        x = outputs[0] if directions == 1 else cat(outputs, 2)
        if p and training and level < num_layers - 1:
            x = drop(x, p, True)
    return (transpose(x, 0, 1) if batch_first else x), tuple(stack(kind) for kind in zip(*ends, strict=True))


def _grouped(name: str, weights: Sequence[Any], count: int, bias: bool, projected: bool) -> list[tuple[Any, ...]]:
    """The flat list of weights as (w_ih, w_hh, b_ih, b_hh, w_hr) for each layer and direction."""
    size = 2 + 2 * bias + projected
    if len(weights) != count * size:
        raise RuntimeError(f"{name}: {count} layers and directions need {count * size} weights, got {len(weights)}")
    groups = []
    for start in range(0, len(weights), size):
        part = list(weights[start:start + size])
        biases = part[2:4] if bias else [None, None]
        groups.append((*part[:2], *biases, part[-1] if projected else None))
    return groups


def _check(name: str, x: Any, state: tuple[Any, ...], groups: list[tuple[Any, ...]], gates: int, num_layers: int,
           directions: int, proj_size: int) -> None:
    """Shapes and dtypes of input (time first), states and weights."""
    check_floating(name, x)
    steps, batch, width = x.shape
    if steps == 0:
        raise RuntimeError(f"{name}: the sequence has no steps: time comes first unless batch_first, got shape "
                           f"{tuple(x.shape)} (time, batch, features)")
    hidden = groups[0][0].shape[0] // gates
    out = proj_size or hidden
    for what, s, size in zip(("h0", "c0"), state, (out, hidden), strict=False):
        wanted = (num_layers * directions, batch, size)
        if tuple(s.shape) != wanted:
            raise RuntimeError(f"{name}: {what} has shape {tuple(s.shape)}, wanted {wanted} (layers * directions, "
                               "batch, size)")
        check_same_dtype(name, x, **{what: s})
    for k, (w_ih, w_hh, b_ih, b_hh, w_hr) in enumerate(groups):
        wanted = {"w_ih": (gates * hidden, width if k < directions else out * directions),
                  "w_hh": (gates * hidden, out), "b_ih": (gates * hidden,), "b_hh": (gates * hidden,),
                  "w_hr": (proj_size, hidden)}
        given = {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "w_hr": w_hr}
        for what, weight in given.items():
            if weight is not None and tuple(weight.shape) != wanted[what]:
                raise RuntimeError(f"{name}: {what} of layer {k // directions} has shape {tuple(weight.shape)}, wanted "
                                   f"{wanted[what]} for an input of shape {tuple(x.shape)}")
        check_same_dtype(name, x, **given)
