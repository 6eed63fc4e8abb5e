"""Whole sequences through one recurrent layer in one direction, forward and backward through time.

[Note: layout] Inside, time comes first and the batch last: gates are (time, gates * hidden, batch) and
a state is (hidden, batch), so the product of each step has its weights on the left and every gate is
one block of memory. The input's product for all steps is one gemm, and so is each weight's gradient.
A sequence that runs backwards is turned round before and after.

Sizes: T steps, B samples, I inputs, H hidden, P outputs (H without projection).
"""

from __future__ import annotations

from typing import Any

from ..base import of
from ._register import kernel

__all__ = ["gru_layer", "gru_layer_backward", "lstm_layer", "lstm_layer_backward", "rnn_layer", "rnn_layer_backward"]


def _input_product(xp: Any, x: Any, weight: Any, *biases: Any) -> Any:
    """weight @ x_t + biases for all steps: x (T, B, I) and weight (G, I) give (T, G, B)."""
    steps, batch, _ = x.shape
    z = xp.matmul(weight, x.reshape(steps * batch, -1).T).reshape(-1, steps, batch).transpose(1, 0, 2)
    out = xp.empty(z.shape, z.dtype)
    bias = None
    for b in biases:
        if b is not None:
            bias = b if bias is None else bias + b
    if bias is None:
        out[...] = z
    else:
        xp.add(z, bias[:, None], out=out)
    return out


def _rows(xp: Any, d: Any) -> Any:
    """(T, G, B) as one matrix (G, T * B) for the products over all steps."""
    return xp.ascontiguousarray(d.transpose(1, 0, 2)).reshape(d.shape[1], -1)


def _before(xp: Any, states: Any, h0: Any) -> Any:
    """The state that each step started from, (T * B, P), from the steps' results (T, B, P)."""
    out = xp.empty(states.shape, states.dtype)
    out[:1] = h0
    out[1:] = states[:-1]
    return out.reshape(-1, states.shape[2])


def _turned(x: Any, reverse: bool) -> Any:
    return x[::-1] if reverse else x


def _sequence(xp: Any, hidden: Any, reverse: bool) -> tuple[Any, Any]:
    """States (T, P, B) as the output (T, B, P), and the last step's (B, P): copies even where B or P is 1."""
    y = hidden.transpose(0, 2, 1)
    return _turned(y, reverse).copy(), y[-1].copy()


def _or_zeros(xp: Any, g: Any, like: Any) -> Any:
    """A cotangent (B, H) as (H, B) of its own, zeros where none arrived."""
    return xp.zeros(like.T.shape, like.dtype) if g is None else xp.ascontiguousarray(g.T) + 0


def _weight_gradients(xp: Any, dx: Any, dh: Any, x: Any, before: Any, w_ih: Any,
                      biased: bool) -> tuple[Any, Any, Any, Any, Any]:
    """Gradients of x, w_ih, w_hh, b_ih, b_hh from what the gates got: from the input's side and the state's."""
    steps, batch, width = x.shape
    on_input = _rows(xp, dx)
    on_state = on_input if dh is dx else _rows(xp, dh)
    gx = xp.matmul(on_input.T, w_ih).reshape(steps, batch, width)
    gb_ih = on_input.sum(axis=1) if biased else None
    gb_hh = (gb_ih.copy() if dh is dx else on_state.sum(axis=1)) if biased else None
    return (gx, xp.matmul(on_input, x.reshape(steps * batch, width)), xp.matmul(on_state, before), gb_ih, gb_hh)


@kernel
def lstm_layer(xp: Any, x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
               reverse: bool) -> tuple[Any, ...]:
    """An LSTM over x (T, B, I) from h0 (B, P) and c0 (B, H); gates in the order i, f, g, o.

    c = f * c + i * g;  h = o * tanh(c), through w_hr (P, H) if given.

    Returns:
        (y, h, c, gates, cells, bent): the outputs (T, B, P), the last states, and for backward the
        gates (T, 4H, B), the cells (T + 1, H, B) and tanh of the new ones (T, H, B).
    """
    x = _turned(x, reverse)
    steps, batch = x.shape[:2]
    size = w_ih.shape[0] // 4
    gates = _input_product(xp, x, w_ih, b_ih, b_hh)
    cells = xp.empty((steps + 1, size, batch), gates.dtype)
    bent = xp.empty((steps, size, batch), gates.dtype)
    hidden = xp.empty((steps, w_hh.shape[1], batch), gates.dtype)
    scratch = xp.empty((size, batch), gates.dtype)
    expit = of(x).special.expit
    cells[0] = c0.T
    h = xp.ascontiguousarray(h0.T)
    for t in range(steps):
        z = gates[t]
        z += xp.matmul(w_hh, h)
        expit(z[:2 * size], out=z[:2 * size])
        xp.tanh(z[2 * size:3 * size], out=z[2 * size:3 * size])
        expit(z[3 * size:], out=z[3 * size:])
        c = cells[t + 1]
        xp.multiply(z[size:2 * size], cells[t], out=c)
        c += xp.multiply(z[:size], z[2 * size:3 * size], out=scratch)
        xp.tanh(c, out=bent[t])
        h = hidden[t]
        if w_hr is None:
            xp.multiply(z[3 * size:], bent[t], out=h)
        else:
            xp.matmul(w_hr, xp.multiply(z[3 * size:], bent[t], out=scratch), out=h)
    y, last = _sequence(xp, hidden, reverse)
    return y, last, cells[-1].T.copy(), gates, cells, bent


@kernel
def lstm_layer_backward(xp: Any, gy: Any, gh: Any, gc: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, w_hr: Any, y: Any,
                        gates: Any, cells: Any, bent: Any, biased: bool, reverse: bool) -> tuple[Any, ...]:
    """Gradients of (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr); cotangents of y, h, c may be None."""
    x, y = _turned(x, reverse), _turned(y, reverse)
    gy = None if gy is None else _turned(gy, reverse)
    steps, size = bent.shape[:2]
    dgates = xp.empty(gates.shape, gates.dtype)
    projected = None if w_hr is None else xp.empty((steps, w_hr.shape[0], x.shape[1]), gates.dtype)
    scratch = xp.empty(bent.shape[1:], gates.dtype)
    dh = _or_zeros(xp, gh, h0)
    dc = xp.zeros(scratch.shape, gates.dtype) if gc is None else xp.ascontiguousarray(gc.T) + 0
    for t in range(steps - 1, -1, -1):
        if gy is not None:
            dh += gy[t].T
        dm = dh
        if w_hr is not None:
            projected[t] = dh
            dm = xp.matmul(w_hr.T, dh)
        i, f, g, o = gates[t].reshape(4, size, -1)
        di, df, dg, do = dgates[t].reshape(4, size, -1)
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
        df *= cells[t]
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
        dh = xp.matmul(w_hh.T, dgates[t])
    gx, gw_ih, gw_hh, gb_ih, gb_hh = _weight_gradients(xp, dgates, dgates, x, _before(xp, y, h0), w_ih, biased)
    gw_hr = None
    if w_hr is not None:
        unprojected = gates[:, 3 * size:] * bent
        gw_hr = xp.matmul(_rows(xp, projected), _rows(xp, unprojected).T)
    return (_turned(gx, reverse), xp.ascontiguousarray(dh.T), xp.ascontiguousarray(dc.T), gw_ih, gw_hh, gb_ih, gb_hh,
            gw_hr)


@kernel
def gru_layer(xp: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any,
              reverse: bool) -> tuple[Any, ...]:
    """A GRU over x (T, B, I) from h0 (B, H); gates in the order r, z, n.

    n = tanh(W_in x + b_in + r * (W_hn h + b_hn));  h = (1 - z) * n + z * h

    Returns:
        (y, h, gates, inner): outputs (T, B, H), the last state, and for backward the gates
        (T, 3H, B) and W_hn h + b_hn (T, H, B).
    """
    x = _turned(x, reverse)
    steps, batch = x.shape[:2]
    size = w_ih.shape[0] // 3
    gates = _input_product(xp, x, w_ih, b_ih)
    inner = xp.empty((steps, size, batch), gates.dtype)
    hidden = xp.empty((steps, size, batch), gates.dtype)
    scratch = xp.empty((3 * size, batch), gates.dtype)
    expit = of(x).special.expit
    h = xp.ascontiguousarray(h0.T)
    for t in range(steps):
        own = xp.matmul(w_hh, h, out=scratch)
        if b_hh is not None:
            own += b_hh[:, None]
        gate = gates[t]
        rz, n = gate[:2 * size], gate[2 * size:]
        rz += own[:2 * size]
        expit(rz, out=rz)
        inner[t] = own[2 * size:]
        n += xp.multiply(rz[:size], inner[t], out=own[2 * size:])
        xp.tanh(n, out=n)
        # h = n + z * (h - n)
        new = xp.subtract(h, n, out=hidden[t])
        new *= rz[size:]
        new += n
        h = new
    y, last = _sequence(xp, hidden, reverse)
    return y, last, gates, inner


@kernel
def gru_layer_backward(xp: Any, gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, gates: Any,
                       inner: Any, biased: bool, reverse: bool) -> tuple[Any, ...]:
    """Gradients of (x, h0, w_ih, w_hh, b_ih, b_hh); cotangents of y and h may be None."""
    x, y = _turned(x, reverse), _turned(y, reverse)
    gy = None if gy is None else _turned(gy, reverse)
    steps, size = inner.shape[:2]
    before = _before(xp, y, h0)
    states = before.reshape(y.shape)
    on_input = xp.empty(gates.shape, gates.dtype)
    on_state = xp.empty(gates.shape, gates.dtype)
    dh = _or_zeros(xp, gh, h0)
    for t in range(steps - 1, -1, -1):
        if gy is not None:
            dh += gy[t].T
        r, z, n = gates[t].reshape(3, size, -1)
        dr, dz, dn = on_input[t].reshape(3, size, -1)
        # dn = dh * (1 - z) * (1 - n^2);  dz = dh * (h - n) * z * (1 - z);  dr = dn * inner * r * (1 - r)
        xp.multiply(dh, 1 - z, out=dn)
        xp.subtract(states[t].T, n, out=dz)
        dz *= dn
        dz *= z
        dn *= 1 - n * n
        xp.multiply(dn, inner[t], out=dr)
        dr *= r
        dr *= 1 - r
        on_state[t, :2 * size] = on_input[t, :2 * size]
        xp.multiply(dn, r, out=on_state[t, 2 * size:])
        dh *= z
        dh += xp.matmul(w_hh.T, on_state[t])
    gx, *rest = _weight_gradients(xp, on_input, on_state, x, before, w_ih, biased)
    return _turned(gx, reverse), xp.ascontiguousarray(dh.T), *rest


@kernel
def rnn_layer(xp: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, nonlinearity: str,
              reverse: bool) -> tuple[Any, Any]:
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it, over x (T, B, I) from h0 (B, H)."""
    x = _turned(x, reverse)
    hidden = _input_product(xp, x, w_ih, b_ih, b_hh)
    h = xp.ascontiguousarray(h0.T)
    for t in range(x.shape[0]):
        z = hidden[t]
        z += xp.matmul(w_hh, h)
        h = xp.tanh(z, out=z) if nonlinearity == "tanh" else xp.maximum(z, 0, out=z)
    return _sequence(xp, hidden, reverse)


@kernel
def rnn_layer_backward(xp: Any, gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, biased: bool,
                       nonlinearity: str, reverse: bool) -> tuple[Any, ...]:
    """Gradients of (x, h0, w_ih, w_hh, b_ih, b_hh); cotangents of y and h may be None."""
    x, y = _turned(x, reverse), _turned(y, reverse)
    gy = None if gy is None else _turned(gy, reverse)
    steps, batch, size = y.shape
    d = xp.empty((steps, size, batch), y.dtype)
    dh = _or_zeros(xp, gh, h0)
    for t in range(steps - 1, -1, -1):
        if gy is not None:
            dh += gy[t].T
        h = y[t].T
        xp.multiply(dh, 1 - h * h if nonlinearity == "tanh" else h > 0, out=d[t])
        dh = xp.matmul(w_hh.T, d[t])
    gx, *rest = _weight_gradients(xp, d, d, x, _before(xp, y, h0), w_ih, biased)
    return _turned(gx, reverse), xp.ascontiguousarray(dh.T), *rest
