"""Whole sequences through one recurrent layer in one direction, forward and backward through time.

[Note: layout] Time comes first, then the batch, in the caller's order also where the sequence runs
backwards: gates are (time, batch, gates * hidden). So the input's product for all steps is one gemm that
writes them where they stay, each weight's gradient is one that reads them there, and nothing is turned.

Sizes: T steps, B samples, I inputs, H hidden, P outputs (H without projection).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..base import of
from ._register import kernel

__all__ = ["gru_layer", "gru_layer_backward", "lstm_layer", "lstm_layer_backward", "rnn_layer", "rnn_layer_backward",
           "last", "or_zeros", "states_before", "total_bias", "weight_gradients"]


def total_bias(b_ih: Any, b_hh: Any) -> Any:
    """The sum of both biases, or None where a layer has none."""
    return None if b_ih is None else b_ih + b_hh


def _in_order(steps: int, reverse: bool) -> range:
    """The steps as a sequence runs through them."""
    return range(steps - 1, -1, -1) if reverse else range(steps)


def last(y: Any, reverse: bool) -> Any:
    """The state after the last step that ran, as a copy."""
    return y[0 if reverse else -1].copy()


def states_before(xp: Any, y: Any, h0: Any, reverse: bool) -> Any:
    """The state that each step started from, (T, B, P), of the outputs and the first state."""
    out = xp.empty(y.shape, y.dtype)
    if reverse:
        out[:-1], out[-1] = y[1:], h0
    else:
        out[1:], out[0] = y[:-1], h0
    return out


def or_zeros(xp: Any, g: Any, like: Any) -> Any:
    """A cotangent as an array of its own, zeros where none arrived."""
    return xp.zeros(like.shape, like.dtype) if g is None else g.astype(like.dtype, order="C")


def weight_gradients(dx: Any, dh: Any, x: Any, before: Any, w_ih: Any, wanted: Sequence[bool]) -> tuple[Any, ...]:
    """Gradients of x, w_ih, w_hh, b_ih, b_hh from those of the gates; None for what is not wanted.

    Args:
        dx, dh: on the input's side and on the state's, (T, B, G); one and the same where they do not differ.
        before: the state that each step started from, (T, B, P).
    """
    kernels = of(x).kernels
    gb_ih = kernels.sum_leading(dx, 2) if wanted[3] else None
    if not wanted[4]:
        gb_hh = None
    elif dh is dx and gb_ih is not None:
        gb_hh = gb_ih.copy()
    else:
        gb_hh = kernels.sum_leading(dh, 2)
    return (kernels.linear_grad_input(dx, w_ih) if wanted[0] else None,
            kernels.linear_grad_weight(dx, x) if wanted[1] else None,
            kernels.linear_grad_weight(dh, before) if wanted[2] else None, gb_ih, gb_hh)


@kernel
def lstm_layer(xp: Any, x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
               reverse: bool) -> tuple[Any, ...]:
    """An LSTM over x (T, B, I) from h0 (B, P) and c0 (B, H); gates in the order i, f, g, o.

    c = f * c + i * g;  h = o * tanh(c), through w_hr (P, H) if given.

    Returns:
        (y, h, c, gates, cells, bent): the outputs (T, B, P), the last states, and for backward the gates
        (T, B, 4H), the cells (T + 1, B, H), of which a step reads one and writes the next in its
        direction, and tanh of the new ones (T, B, H).
    """
    steps, batch = x.shape[:2]
    size = w_ih.shape[0] // 4
    linear, expit = of(x).kernels.linear, of(x).special.expit
    gates = linear(x, w_ih, total_bias(b_ih, b_hh))
    cells = xp.empty((steps + 1, batch, size), gates.dtype)
    bent = xp.empty((steps, batch, size), gates.dtype)
    y = xp.empty((steps, batch, w_hh.shape[1]), gates.dtype)
    scratch = xp.empty((batch, size), gates.dtype)
    cells[steps if reverse else 0] = c0
    h = h0
    for t in _in_order(steps, reverse):
        z, c = gates[t], cells[t + (not reverse)]
        z += linear(h, w_hh, None)
        expit(z[:, :2 * size], out=z[:, :2 * size])
        xp.tanh(z[:, 2 * size:3 * size], out=z[:, 2 * size:3 * size])
        expit(z[:, 3 * size:], out=z[:, 3 * size:])
        xp.multiply(z[:, size:2 * size], cells[t + reverse], out=c)
        c += xp.multiply(z[:, :size], z[:, 2 * size:3 * size], out=scratch)
        xp.tanh(c, out=bent[t])
        h = y[t]
        if w_hr is None:
            xp.multiply(z[:, 3 * size:], bent[t], out=h)
        else:
            h[...] = linear(xp.multiply(z[:, 3 * size:], bent[t], out=scratch), w_hr, None)
    return y, last(y, reverse), last(cells, reverse), gates, cells, bent


@kernel
def lstm_layer_backward(xp: Any, gy: Any, gh: Any, gc: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, w_hr: Any, y: Any,
                        gates: Any, cells: Any, bent: Any, wanted: Sequence[bool], reverse: bool) -> tuple[Any, ...]:
    """Gradients of (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr); cotangents of y, h, c may be None.

    Args:
        wanted: whether to compute those of x, w_ih, w_hh, b_ih and b_hh.
    """
    steps, batch, size = bent.shape
    kernels = of(x).kernels
    dgates = xp.empty(gates.shape, gates.dtype)
    projected = None if w_hr is None else xp.empty(y.shape, gates.dtype)
    scratch = xp.empty((batch, size), gates.dtype)
    dh, dc = or_zeros(xp, gh, h0), or_zeros(xp, gc, bent[0])
    for t in _in_order(steps, not reverse):
        if gy is not None:
            dh += gy[t]
        dm = dh
        if w_hr is not None:
            projected[t] = dh
            dm = kernels.linear_grad_input(dh, w_hr)
        i, f, g, o = (gates[t, :, k * size:(k + 1) * size] for k in range(4))
        di, df, dg, do = (dgates[t, :, k * size:(k + 1) * size] for k in range(4))
        tanh_c = bent[t]
        # do = dm * tanh(c) * o * (1 - o);  dc += dm * o * (1 - tanh(c)^2)
        xp.multiply(dm, o, out=scratch)
        dc += scratch
        scratch *= tanh_c
        xp.subtract(1, o, out=do)
        do *= scratch
        scratch *= tanh_c
        dc -= scratch
        # df = dc * c_before * f * (1 - f), and likewise di; dg = dc * i * (1 - g^2)
        xp.subtract(1, f, out=df)
        df *= f
        df *= cells[t + reverse]
        df *= dc
        xp.subtract(1, i, out=di)
        di *= i
        di *= g
        di *= dc
        xp.multiply(g, g, out=dg)
        xp.subtract(1, dg, out=dg)
        dg *= i
        dg *= dc
        dc *= f
        dh = kernels.linear_grad_input(dgates[t], w_hh)
    before = states_before(xp, y, h0, reverse)
    gx, gw_ih, gw_hh, gb_ih, gb_hh = weight_gradients(dgates, dgates, x, before, w_ih, wanted)
    gw_hr = None if w_hr is None else kernels.linear_grad_weight(projected, gates[..., 3 * size:] * bent)
    return gx, dh, dc, gw_ih, gw_hh, gb_ih, gb_hh, gw_hr


@kernel
def gru_layer(xp: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any,
              reverse: bool) -> tuple[Any, ...]:
    """A GRU over x (T, B, I) from h0 (B, H); gates in the order r, z, n.

    n = tanh(W_in x + b_in + r * (W_hn h + b_hn));  h = (1 - z) * n + z * h

    Returns:
        (y, h, gates, inner): outputs (T, B, H), the last state, and for backward the gates
        (T, B, 3H) and W_hn h + b_hn (T, B, H).
    """
    steps, batch = x.shape[:2]
    size = w_ih.shape[0] // 3
    linear, expit = of(x).kernels.linear, of(x).special.expit
    gates = linear(x, w_ih, b_ih)
    inner = xp.empty((steps, batch, size), gates.dtype)
    y = xp.empty((steps, batch, size), gates.dtype)
    h = h0
    for t in _in_order(steps, reverse):
        own = linear(h, w_hh, b_hh)
        rz, n = gates[t, :, :2 * size], gates[t, :, 2 * size:]
        rz += own[:, :2 * size]
        expit(rz, out=rz)
        inner[t] = own[:, 2 * size:]
        n += rz[:, :size] * inner[t]
        xp.tanh(n, out=n)
        # h = n + z * (h - n)
        new = xp.subtract(h, n, out=y[t])
        new *= rz[:, size:]
        new += n
        h = new
    return y, last(y, reverse), gates, inner


@kernel
def gru_layer_backward(xp: Any, gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, gates: Any,
                       inner: Any, wanted: Sequence[bool], reverse: bool) -> tuple[Any, ...]:
    """Gradients of (x, h0, w_ih, w_hh, b_ih, b_hh), `wanted` as for `lstm_layer_backward`."""
    steps, _, size = inner.shape
    before = states_before(xp, y, h0, reverse)
    on_input = xp.empty(gates.shape, gates.dtype)
    on_state = xp.empty(gates.shape, gates.dtype)
    dh = or_zeros(xp, gh, h0)
    for t in _in_order(steps, not reverse):
        if gy is not None:
            dh += gy[t]
        r, z, n = (gates[t, :, k * size:(k + 1) * size] for k in range(3))
        dr, dz, dn = (on_input[t, :, k * size:(k + 1) * size] for k in range(3))
        # dn = dh * (1 - z) * (1 - n^2);  dz = dh * (h - n) * z * (1 - z);  dr = dn * inner * r * (1 - r)
        xp.multiply(dh, 1 - z, out=dn)
        xp.subtract(before[t], n, out=dz)
        dz *= dn
        dz *= z
        dn *= 1 - n * n
        xp.multiply(dn, inner[t], out=dr)
        dr *= r
        dr *= 1 - r
        on_state[t, :, :2 * size] = on_input[t, :, :2 * size]
        xp.multiply(dn, r, out=on_state[t, :, 2 * size:])
        dh *= z
        dh += of(x).kernels.linear_grad_input(on_state[t], w_hh)
    gx, *rest = weight_gradients(on_input, on_state, x, before, w_ih, wanted)
    return gx, dh, *rest


@kernel
def rnn_layer(xp: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, nonlinearity: str,
              reverse: bool) -> tuple[Any, Any]:
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it, over x (T, B, I) from h0 (B, H)."""
    linear = of(x).kernels.linear
    y = linear(x, w_ih, total_bias(b_ih, b_hh))
    h = h0
    for t in _in_order(x.shape[0], reverse):
        z = y[t]
        z += linear(h, w_hh, None)
        h = xp.tanh(z, out=z) if nonlinearity == "tanh" else xp.maximum(z, 0, out=z)
    return y, last(y, reverse)


@kernel
def rnn_layer_backward(xp: Any, gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any,
                       wanted: Sequence[bool], nonlinearity: str, reverse: bool) -> tuple[Any, ...]:
    """Gradients of (x, h0, w_ih, w_hh, b_ih, b_hh), `wanted` as for `lstm_layer_backward`."""
    d = xp.empty(y.shape, y.dtype)
    dh = or_zeros(xp, gh, h0)
    for t in _in_order(y.shape[0], not reverse):
        if gy is not None:
            dh += gy[t]
        xp.multiply(dh, 1 - y[t] * y[t] if nonlinearity == "tanh" else y[t] > 0, out=d[t])
        dh = of(x).kernels.linear_grad_input(d[t], w_hh)
    gx, *rest = weight_gradients(d, d, x, states_before(xp, y, h0, reverse), w_ih, wanted)
    return gx, dh, *rest
