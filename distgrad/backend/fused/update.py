"""The update of parameters in one pass: clip factor, decay, moments and step while an element is in a register."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..reference.update import adam_ as _reference_adam
from ..reference.update import sgd_ as _reference_sgd
from ._memory import address, alike, element
from .native import native

__all__ = ["adam_", "sgd_"]


def _loop(name: str, p: Any, g: Any, *state: Any) -> Callable[..., None] | None:
    """The loop for these arrays, if there is one; the gradient is only read."""
    dtype = element(p)
    if dtype is None or not alike((p, *state)) or g.ndim != 1 or g.dtype != p.dtype or g.size != p.size \
            or not (g.flags.c_contiguous and g.flags.aligned):
        return None
    return native(name, dtype)


def sgd_(p: Any, g: Any, buf: Any, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
         first: bool, factor: float) -> None:
    """As the reference, with the same bits: p -= lr * d, smoothed by momentum."""
    loop = _loop("sgd", p, g) if buf is None else _loop("sgd_momentum", p, g, buf)
    if loop is None:
        _reference_sgd(np, p, g, buf, lr, momentum, dampening, weight_decay, nesterov, first, factor)
    elif not p.size:
        return
    elif buf is None:
        loop(address(p), address(g), p.size, factor, weight_decay, lr)
    else:
        loop(address(p), address(g), address(buf), p.size, nesterov, first, factor, weight_decay, lr, momentum,
             1 - dampening)


def adam_(p: Any, g: Any, m: Any, v: Any, vmax: Any, lr: float, beta1: float, beta2: float, eps: float,
          weight_decay: float, decoupled: bool, step: int, factor: float) -> None:
    """As the reference, with the same bits: Adam; AdamW with `decoupled`, AMSGrad with `vmax`."""
    state = (m, v) if vmax is None else (m, v, vmax)
    loop = _loop("adam" if vmax is None else "adam_max", p, g, *state)
    if loop is None:
        _reference_adam(np, p, g, m, v, vmax, lr, beta1, beta2, eps, weight_decay, decoupled, step, factor)
    elif p.size:
        loop(address(p), address(g), *[address(x) for x in state], p.size, factor, 0 if decoupled else weight_decay,
             1 - lr * weight_decay if decoupled else 1, 1 - beta1, beta2, 1 - beta2, math.sqrt(1 - beta2 ** step), eps,
             lr / (1 - beta1 ** step))
