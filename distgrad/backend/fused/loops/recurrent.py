"""Recurrent layers over whole sequences, forward and backward: in each step a product and one pass over the gates.

Over C pointers to contiguous memory, in the layouts of the reference. Matrices come as panels, [Note: panels], from
`lay_out`. `room`: for a tile, and for what lies between a cell and its projection.
"""

from __future__ import annotations

from typing import Any

from ..recurrent_vectors import DEPTH, ROWS, columns, joined, ramp, ramp_slope, rest, rest_of_square, tile
from ..row_vectors import inlined, read, subtract, write, zeros
from ..vector_math import sigmoid, tanh
from ..vectors import WIDTH, add, multiply

__all__ = ["gru", "gru_backward", "lay_out", "lstm", "lstm_backward", "rnn", "rnn_backward"]

INSIDE = 256  # where in `room` a state lies before its projection, or what it gets; a tile takes less


def lay_out(matrix: Any, panels: Any, depth: int, size: int, row: int, column: int) -> None:
    """Panels of a (depth, size) matrix with these strides."""
    width = columns(matrix)
    for panel in range((size + width - 1) // width):  # a step that is no constant might be zero, and could raise
        begin = panel * width
        count = width if begin + width <= size else size - begin
        if column == 1:
            for k in range(depth):
                for n in range(width):
                    panels[begin * depth + k * width + n] = matrix[k * row + begin + n] if n < count else 0
        else:
            for n in range(width):
                for k in range(depth):
                    panels[begin * depth + k * width + n] = matrix[k * row + (begin + n) * column] if n < count else 0


@inlined
def _product(a: Any, at: int, depth: int, panels: Any, size: int, out: Any, to: int, stride: int, rows: int,
             edge: Any) -> None:
    """out[to:] += a[at:] @ matrix, for `rows` rows of a that follow each other; `edge`: room for a tile."""
    width = columns(a)
    for panel in range((size + width - 1) // width):
        begin = panel * width
        count = min(width, size - begin)
        for k in range(0, depth, DEPTH):
            for r in range(0, rows, ROWS):
                target, place, step = out, to + r * stride + begin, stride
                some = min(ROWS, rows - r)
                if count < width:
                    target, place, step = edge, 0, width
                    _copy(out, to + r * stride + begin, stride, edge, 0, width, some, count)
                tile(a, at + r * depth + k, depth, panels, begin * depth + k * width, min(DEPTH, depth - k), target,
                     place, step, some)
                if count < width:
                    _copy(edge, 0, width, out, to + r * stride + begin, stride, some, count)


@inlined
def _copy(x: Any, at: int, x_stride: int, out: Any, to: int, out_stride: int, rows: int, count: int) -> None:
    for r in range(rows):
        for n in range(count):
            out[to + r * out_stride + n] = x[at + r * x_stride + n]


@inlined
def _clear(x: Any, at: int, count: int) -> None:
    for n in range(count):
        x[at + n] = 0


@inlined
def _add(x: Any, at: int, out: Any, count: int) -> None:
    for n in range(count):
        out[n] = out[n] + x[at + n]


@inlined
def _take(x: Any, at: int, left: int) -> Any:
    return read(x, at, left, zeros(x))


@inlined
def _biased(z: Any, at: int, bias: Any, j: int, count: int) -> Any:
    return add(_take(z, at, count), _take(bias, j, count))


def lstm(z: Any, bias: Any, w: Any, w_hr: Any, cells: Any, bent: Any, y: Any, h0: Any, room: Any, steps: int,
         batch: int, size: int, outputs: int, reverse: int, projected: int) -> None:
    """z: the inputs' products become gates."""
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        row, state = t * batch, t * batch * outputs
        old, new = (row + batch, row) if reverse else (row, row + batch)
        h, before = (y, state + (batch if reverse else -batch) * outputs) if step else (h0, 0)
        _product(h, before, outputs, w, 4 * size, z, 4 * row * size, 4 * size, batch, room)
        out, to = (room, INSIDE) if projected else (y, state)
        for b in range(batch):
            for j in range(0, size, WIDTH):
                n = size - j
                k = 4 * (row + b) * size + j
                f = sigmoid(_biased(z, k + size, bias, j + size, n))
                write(f, z, k + size, n)
                c = multiply(f, _take(cells, (old + b) * size + j, n))
                i = sigmoid(_biased(z, k, bias, j, n))
                write(i, z, k, n)
                g = tanh(_biased(z, k + 2 * size, bias, j + 2 * size, n))
                write(g, z, k + 2 * size, n)
                c = joined(i, g, c)
                write(c, cells, (new + b) * size + j, n)
                curve = tanh(c)
                write(curve, bent, (row + b) * size + j, n)
                o = sigmoid(_biased(z, k + 3 * size, bias, j + 3 * size, n))
                write(o, z, k + 3 * size, n)
                write(multiply(o, curve), out, to + b * size + j, n)
        if projected:
            _clear(y, state, batch * outputs)
            _product(room, INSIDE, size, w_hr, outputs, y, state, outputs, batch, room)


def lstm_backward(gy: Any, dh: Any, dc: Any, w: Any, w_hr: Any, gates: Any, cells: Any, bent: Any, dgates: Any,
                  states: Any, room: Any, steps: int, batch: int, size: int, outputs: int, reverse: int,
                  reached: int, projected: int) -> None:
    """reached: whether there is a gy. states: what the outputs got, if they are projected."""
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        row, state = t * batch, t * batch * outputs
        old = row + batch if reverse else row
        if reached:
            _add(gy, state, dh, batch * outputs)
        source, place = (room, INSIDE) if projected else (dh, 0)
        if projected:
            _copy(dh, 0, 0, states, state, 0, 1, batch * outputs)
            _clear(room, INSIDE, batch * size)
            _product(dh, 0, outputs, w_hr, size, room, INSIDE, size, batch, room)
        for b in range(batch):
            for j in range(0, size, WIDTH):
                n = size - j
                k, m = 4 * (row + b) * size + j, b * size + j
                i, f = _take(gates, k, n), _take(gates, k + size, n)
                g, o = _take(gates, k + 2 * size, n), _take(gates, k + 3 * size, n)
                curve = _take(bent, row * size + m, n)
                d = multiply(_take(source, place + m, n), o)
                c = joined(d, rest_of_square(curve), _take(dc, m, n))
                before = _take(cells, old * size + m, n)
                write(multiply(multiply(c, g), multiply(i, rest(i))), dgates, k, n)
                write(multiply(multiply(c, before), multiply(f, rest(f))), dgates, k + size, n)
                write(multiply(multiply(c, i), rest_of_square(g)), dgates, k + 2 * size, n)
                write(multiply(multiply(d, curve), rest(o)), dgates, k + 3 * size, n)
                write(multiply(c, f), dc, m, n)
        _clear(dh, 0, batch * outputs)
        _product(dgates, 4 * row * size, 4 * size, w, outputs, dh, 0, outputs, batch, room)


def gru(z: Any, bias: Any, w: Any, w_n: Any, inner: Any, y: Any, h0: Any, room: Any, steps: int, batch: int, size: int,
        reverse: int) -> None:
    """z: the inputs' products become gates. bias: of r, z, n, and n's on the state's side. w: of r and z alone."""
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        row = t * batch
        h, before = (y, row + batch if reverse else row - batch) if step else (h0, 0)
        _clear(inner, row * size, batch * size)
        _product(h, before * size, size, w, 2 * size, z, 3 * row * size, 3 * size, batch, room)
        _product(h, before * size, size, w_n, size, inner, row * size, size, batch, room)
        for b in range(batch):
            for j in range(0, size, WIDTH):
                n = size - j
                k, m = 3 * (row + b) * size + j, (row + b) * size + j
                r = sigmoid(_biased(z, k, bias, j, n))
                u = sigmoid(_biased(z, k + size, bias, j + size, n))
                own = _biased(inner, m, bias, j + 3 * size, n)
                new = tanh(joined(r, own, _biased(z, k + 2 * size, bias, j + 2 * size, n)))
                state = _take(h, (before + b) * size + j, n)
                write(r, z, k, n)
                write(u, z, k + size, n)
                write(new, z, k + 2 * size, n)
                write(own, inner, m, n)
                write(joined(u, subtract(state, new), new), y, m, n)


def gru_backward(gy: Any, dh: Any, w: Any, gates: Any, inner: Any, before: Any, on_input: Any, on_state: Any,
                 room: Any, steps: int, batch: int, size: int, reverse: int, reached: int) -> None:
    """before: the state that each step started from."""
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        row = t * batch
        if reached:
            _add(gy, row * size, dh, batch * size)
        for b in range(batch):
            for j in range(0, size, WIDTH):
                n = size - j
                k, m = 3 * (row + b) * size + j, b * size + j
                r, u, new = _take(gates, k, n), _take(gates, k + size, n), _take(gates, k + 2 * size, n)
                d, state = _take(dh, m, n), _take(before, row * size + m, n)
                part = multiply(d, rest(u))
                d_u = multiply(multiply(part, subtract(state, new)), u)
                d_new = multiply(part, rest_of_square(new))
                d_r = multiply(multiply(d_new, _take(inner, row * size + m, n)), multiply(r, rest(r)))
                write(d_r, on_input, k, n)
                write(d_u, on_input, k + size, n)
                write(d_new, on_input, k + 2 * size, n)
                write(d_r, on_state, k, n)
                write(d_u, on_state, k + size, n)
                write(multiply(d_new, r), on_state, k + 2 * size, n)
                write(multiply(d, u), dh, m, n)
        _product(on_state, 3 * row * size, 3 * size, w, size, dh, 0, size, batch, room)


def rnn(y: Any, bias: Any, w: Any, h0: Any, room: Any, steps: int, batch: int, size: int, reverse: int,
        bent: int) -> None:
    """y: the inputs' products become states. bent: tanh instead of relu."""
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        row = t * batch
        h, before = (y, row + batch if reverse else row - batch) if step else (h0, 0)
        _product(h, before * size, size, w, size, y, row * size, size, batch, room)
        for b in range(batch):
            for j in range(0, size, WIDTH):
                k, n = (row + b) * size + j, size - j
                z = _biased(y, k, bias, j, n)
                write(tanh(z) if bent else ramp(z), y, k, n)


def rnn_backward(gy: Any, dh: Any, w: Any, y: Any, d: Any, room: Any, steps: int, batch: int, size: int, reverse: int,
                 reached: int, bent: int) -> None:
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        at = t * batch * size
        if reached:
            _add(gy, at, dh, batch * size)
        for k in range(0, batch * size, WIDTH):
            n = batch * size - k
            h = _take(y, at + k, n)
            write(multiply(_take(dh, k, n), rest_of_square(h) if bent else ramp_slope(h)), d, at + k, n)
        _clear(dh, 0, batch * size)
        _product(d, at, size, w, size, dh, 0, size, batch, room)
