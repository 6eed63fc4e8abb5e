"""What recording costs: a chain of small operations recorded, under no_grad, and in inference mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._tensor.creation import ones
from ..graph.modes import inference_mode, no_grad
from .clock import Sample, interleaved

__all__ = ["run"]


def run(length: int = 1000, rounds: int = 100, peer: str | None = None) -> list[Sample]:
    """Time a chain of `length` operations on 10 elements in each mode.

    Args:
        peer: 'torch' measures it in the same rounds.

    Returns:
        Samples named 'recording', 'no_grad', 'inference_mode', with the peer's name before its own.
    """
    contestants = _contestants(ones(10, requires_grad=True), length, no_grad, inference_mode, "")
    if peer == "torch":
        import torch

        torch.set_num_threads(1)
        contestants |= _contestants(torch.ones(10, requires_grad=True), length, torch.no_grad, torch.inference_mode,
                                    "torch ")
    return interleaved(contestants, rounds)


def _contestants(x: Any, length: int, no_grad: Any, inference_mode: Any, prefix: str) -> dict[str, Callable[[], Any]]:
    def chain() -> Any:
        y = x
        for _ in range(length // 2):
            y = y * 1.0000001
            y = y + 0.0000001
        return y

    def without() -> Any:
        with no_grad():
            return chain()

    def inference() -> Any:
        with inference_mode():
            return chain()

    return {f"{prefix}recording": chain, f"{prefix}no_grad": without, f"{prefix}inference_mode": inference}
