"""Exact means: how much each backward weighs, and whether the step adds (plain) or averages (weighted).

`loss.backward()` weighs ranks equally, and successive calls add, as in torch. `model.backward(loss,
weight=n)` seeds the backward with n, and the step's gradient is sum(n_i g_i) / sum(n_i) over ranks and
successive calls. Both before one zero_grad would mean nothing, so mixing them raises.
"""

from __future__ import annotations

import math

__all__ = ["Weights", "checked_weight"]


def checked_weight(weight: float) -> float:
    """The weight as a float.

    Raises:
        TypeError: no number.
        ValueError: negative, NaN or infinite.
    """
    try:
        found = float(weight)
    except (TypeError, ValueError):
        raise TypeError(f"backward: weight is a number (of samples, of tokens), got {type(weight).__name__}") from None
    if not 0 <= found < math.inf:
        raise ValueError(f"backward: weight is finite and not negative, got {weight}")
    return found


class Weights:
    """The weights of one model's backwards since its gradients were last empty.

    Attributes:
        weighted: whether they came through `model.backward`; None before the first one.
        local: of this rank's backwards that are not reduced yet.
        total: of all ranks' backwards that are.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Gradients are empty: anything may come."""
        self.weighted: bool | None = None
        self.local = 0.0
        self.total = 0.0

    def note(self, weight: float | None, label: str) -> None:
        """A backward begins: with a weight, or a plain one (None).

        Raises:
            RuntimeError: one of the other kind came before it.
        """
        weighted = weight is not None
        if self.weighted is not None and self.weighted != weighted:
            raise RuntimeError(f"{label}: loss.backward() and model.backward(loss, weight) were mixed before "
                               "zero_grad(): the one adds, the other averages; a step's gradients take one of them")
        self.weighted = weighted
        self.local += weight or 0.0

    def take_local(self) -> float:
        """This rank's weight in the reduction that begins."""
        local, self.local = self.local, 0.0
        return local
