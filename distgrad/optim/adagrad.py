"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backend import of
from . import rules
from .optimizer import Optimizer, check_range

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Divides by the root of the sum of all squared gradients (Duchi et al., 2011).

    sum += g^2;  p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum) + eps)

    Args:
        initial_accumulator_value: where the sum starts.
        maximize: takes -g for g.

    Raises:
        ValueError: a negative option.
    """

    rule = staticmethod(rules.adagrad)

    def __init__(self, params: Any, lr: float = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
                 initial_accumulator_value: float = 0, eps: float = 1e-10, *, maximize: bool = False,
                 foreach: bool | None = None, fused: bool | None = None) -> None:
        super().__init__(params, {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
                                  "initial_accumulator_value": initial_accumulator_value, "maximize": maximize})

    def check_options(self, group: Mapping[str, Any]) -> None:
        for name in ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"):
            check_range(name, group[name])

    def arrays_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    def new_array(self, name: str, group: Mapping[str, Any], like: Any) -> Any:
        return of(like).xp.full_like(like, group["initial_accumulator_value"])
