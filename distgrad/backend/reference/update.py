"""The update of parameters, in place over flat arrays, in pieces small enough that temporaries stay in cache.

`factor` multiplies each gradient as it is read: a clip that is still to be applied costs no pass. It is a number, or
an array of one element where only the device knows the number.
Optimizers decide about groups and steps; here are only arrays and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ._register import kernel

__all__ = ["PIECE", "adam_", "adam_plan", "sgd_", "sgd_plan"]

PIECE = 16384  # elements worked on at a time


def _pieces(size: int) -> Iterator[slice]:
    for start in range(0, size, PIECE):
        yield slice(start, min(start + PIECE, size))


@kernel
def sgd_(xp: Any, p: Any, g: Any, buf: Any, lr: float, momentum: float, dampening: float, weight_decay: float,
         nesterov: bool, first: bool, factor: Any) -> None:
    """p -= lr * d, where d = factor * g + weight_decay * p, smoothed by momentum.

    buf = d at the first step, then momentum * buf + (1 - dampening) * d; d becomes buf, or
    d + momentum * buf with `nesterov`. `buf` is None without momentum.
    """
    scratch = xp.empty((2, min(PIECE, p.size)), p.dtype)
    for piece in _pieces(p.size):
        pp = p[piece]
        d, t = scratch[0, :pp.size], scratch[1, :pp.size]
        xp.multiply(g[piece], factor, out=d)
        if weight_decay:
            xp.multiply(pp, weight_decay, out=t)
            d += t
        if buf is not None:
            b = buf[piece]
            if first:
                b[...] = d
            else:
                b *= momentum
                b += xp.multiply(d, 1 - dampening, out=t)
            if nesterov:
                d += xp.multiply(b, momentum, out=t)
            else:
                d = b
        pp -= xp.multiply(d, lr, out=t)


@kernel
def adam_(xp: Any, p: Any, g: Any, m: Any, v: Any, vmax: Any, lr: float, beta1: float, beta2: float, eps: float,
          weight_decay: float, decoupled: bool, step: int, factor: Any) -> None:
    """Adam (Kingma and Ba, 2015); AdamW with `decoupled`, AMSGrad with `vmax`. `step` counts from 1.

    m += (1 - beta1) * (d - m);  v = beta2 * v + (1 - beta2) * d * d
    p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
    """
    size = lr / (1 - beta1 ** step)
    root = math.sqrt(1 - beta2 ** step)
    scratch = xp.empty((2, min(PIECE, p.size)), p.dtype)
    for piece in _pieces(p.size):
        pp, mm, vv = p[piece], m[piece], v[piece]
        d, t = scratch[0, :pp.size], scratch[1, :pp.size]
        xp.multiply(g[piece], factor, out=d)
        if weight_decay:
            if decoupled:
                pp *= 1 - lr * weight_decay
            else:
                d += xp.multiply(pp, weight_decay, out=t)
        xp.subtract(d, mm, out=t)
        t *= 1 - beta1
        mm += t
        vv *= beta2
        d *= d
        d *= 1 - beta2
        vv += d
        if vmax is not None:
            vv = xp.maximum(vmax[piece], vv, out=vmax[piece])
        xp.sqrt(vv, out=d)
        d /= root
        d += eps
        xp.divide(mm, d, out=t)
        t *= size
        pp -= t


@kernel
def sgd_plan(xp: Any, ps: Sequence[Any], bufs: Sequence[Any] | None) -> Callable[..., None]:
    """`sgd_` for the same parameters step after step: run(gs, lr, ...), with the options of `sgd_`."""

    def run(gs: Sequence[Any], *options: Any) -> None:
        for i, (p, g) in enumerate(zip(ps, gs, strict=True)):
            sgd_(xp, p, g, None if bufs is None else bufs[i], *options)

    return run


@kernel
def adam_plan(xp: Any, ps: Sequence[Any], ms: Sequence[Any], vs: Sequence[Any],
              vmaxs: Sequence[Any] | None) -> Callable[..., None]:
    """`adam_` for the same parameters step after step: run(gs, lr, ...), with the options of `adam_`."""

    def run(gs: Sequence[Any], *options: Any) -> None:
        for i, (p, g) in enumerate(zip(ps, gs, strict=True)):
            adam_(xp, p, g, ms[i], vs[i], None if vmaxs is None else vmaxs[i], *options)

    return run
