"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import rules
from .optimizer import Optimizer, check_range

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """Divides by the root of a running mean of squared gradients (Tieleman and Hinton, 2012).

    v = alpha * v + (1 - alpha) * g^2;  p -= lr * g / (sqrt(v) + eps)

    Args:
        centered: subtract the squared running mean of the gradient under the root (Graves, 2013).
        momentum: the quotient goes through b = momentum * b + quotient.
        maximize: takes -g for g.

    Raises:
        ValueError: a negative option.
    """

    rule = staticmethod(rules.rmsprop)

    def __init__(self, params: Any, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
                 momentum: float = 0, centered: bool = False, *, maximize: bool = False,
                 foreach: bool | None = None, fused: bool | None = None) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered,
                                  "weight_decay": weight_decay, "maximize": maximize})

    def check_options(self, group: Mapping[str, Any]) -> None:
        for name in ("lr", "alpha", "eps", "weight_decay", "momentum"):
            check_range(name, group[name])

    def arrays_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        names = ("square_avg", *(("momentum_buffer",) if group["momentum"] > 0 else ()))
        return (*names, "grad_avg") if group["centered"] else names
