"""The update of parameters in one pass: clip factor, decay, moments and step while an element is in a register.

A plan takes the addresses of parameters and state once, and updates all of them in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..reference.update import adam_plan as _reference_adam
from ..reference.update import sgd_plan as _reference_sgd
from ._memory import address, addresses, alike, element
from .native import Loop

__all__ = ["adam_", "adam_plan", "sgd_", "sgd_plan"]

_SGD = Loop("update", "sgd", "PPNnttt")
_SGD_MOMENTUM = Loop("update", "sgd_momentum", "PPPNnnn" + "t" * 5)
_ADAM = Loop("update", "adam", "PPPPNn" + "t" * 9)
_ADAM_MAX = Loop("update", "adam_max", "PPPPPNn" + "t" * 9)


class _Table:
    """Parameters, their state and their gradients as C arrays of pointers; empty parameters are left out."""

    def __init__(self, ps: Sequence[Any], states: Sequence[Sequence[Any]]) -> None:
        self.places = [i for i, p in enumerate(ps) if p.size]
        self.ps = [ps[i] for i in self.places]
        self.keeps = [self.ps, *[[state[i] for i in self.places] for state in states]]
        self.dtype = element(ps[0])
        self.count = len(self.places)
        self.fits = self.dtype is not None and all(
            p.dtype == ps[0].dtype and alike((p, *[state[i] for state in states])) for i, p in enumerate(ps))
        if self.fits:
            self.pointers, *self.states = [addresses(arrays) for arrays in self.keeps]
            self.sizes = np.array([p.size for p in self.ps], np.int64)
            self.lengths = address(self.sizes) if self.count else None
        self._last: Sequence[Any] = ()
        self._gradients: Any = None

    def gradients(self, gs: Sequence[Any]) -> Any:
        """Pointers to the gradients, which are only read; None if they do not fit."""
        if gs is not self._last:
            chosen = [gs[i] for i in self.places]
            fit = len(gs) >= self.count and all(
                g.ndim == 1 and g.dtype == p.dtype and g.size == p.size and g.flags.c_contiguous and g.flags.aligned
                for g, p in zip(chosen, self.ps, strict=True))
            self._gradients = addresses(chosen) if fit else None
            self._last = gs
        return self._gradients


def sgd_plan(ps: Sequence[Any], bufs: Sequence[Any] | None) -> Callable[..., None]:
    """As the reference, with the same bits: run(gs, lr, ...) does p -= lr * d, smoothed by momentum."""
    table = _Table(ps, [] if bufs is None else [bufs])
    loop = (_SGD if bufs is None else _SGD_MOMENTUM)(table.dtype) if table.fits else None
    plain = _reference_sgd(np, ps, bufs)

    def run(gs: Sequence[Any], lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
            first: bool, factor: Any) -> None:
        gradients = table.gradients(gs) if loop is not None else None
        if loop is None or gradients is None:
            plain(gs, lr, momentum, dampening, weight_decay, nesterov, first, factor)
        elif not table.count:
            return
        elif bufs is None:
            loop(table.pointers, gradients, table.lengths, table.count, factor, weight_decay, lr)
        else:
            loop(table.pointers, gradients, *table.states, table.lengths, table.count, nesterov, first, factor,
                 weight_decay, lr, momentum, 1 - dampening)

    return run


def adam_plan(ps: Sequence[Any], ms: Sequence[Any], vs: Sequence[Any],
              vmaxs: Sequence[Any] | None) -> Callable[..., None]:
    """As the reference, with the same bits: run(gs, lr, ...) is Adam; AdamW with `decoupled`, AMSGrad with `vmaxs`."""
    table = _Table(ps, [ms, vs] if vmaxs is None else [ms, vs, vmaxs])
    loop = (_ADAM if vmaxs is None else _ADAM_MAX)(table.dtype) if table.fits else None
    plain = _reference_adam(np, ps, ms, vs, vmaxs)

    def run(gs: Sequence[Any], lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, decoupled: bool,
            step: int, factor: Any) -> None:
        gradients = table.gradients(gs) if loop is not None else None
        if loop is None or gradients is None:
            plain(gs, lr, beta1, beta2, eps, weight_decay, decoupled, step, factor)
        elif table.count:
            loop(table.pointers, gradients, *table.states, table.lengths, table.count, factor,
                 0 if decoupled else weight_decay, 1 - lr * weight_decay if decoupled else 1, 1 - beta1, beta2,
                 1 - beta2, math.sqrt(1 - beta2 ** step), eps, lr / (1 - beta1 ** step))

    return run


def sgd_(p: Any, g: Any, buf: Any, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool,
         first: bool, factor: Any) -> None:
    """As the reference, with the same bits: p -= lr * d, smoothed by momentum."""
    sgd_plan([p], None if buf is None else [buf])([g], lr, momentum, dampening, weight_decay, nesterov, first, factor)


def adam_(p: Any, g: Any, m: Any, v: Any, vmax: Any, lr: float, beta1: float, beta2: float, eps: float,
          weight_decay: float, decoupled: bool, step: int, factor: Any) -> None:
    """As the reference, with the same bits: Adam; AdamW with `decoupled`, AMSGrad with `vmax`."""
    update = adam_plan([p], [m], [v], None if vmax is None else [vmax])
    update([g], lr, beta1, beta2, eps, weight_decay, decoupled, step, factor)
