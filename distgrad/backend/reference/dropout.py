"""Dropout from given uniform numbers: drawing them is no kernel's business."""

from __future__ import annotations

from typing import Any

from ._register import kernel

__all__ = ["dropout", "dropout_backward"]


@kernel
def dropout(xp: Any, x: Any, noise: Any, p: float) -> tuple[Any, Any]:
    """x / (1 - p) where noise >= p, else 0; noise broadcasts. Returns the result and the mask."""
    mask = noise >= p
    return dropout_backward(xp, x, mask, p), mask


@kernel
def dropout_backward(xp: Any, g: Any, mask: Any, p: float) -> Any:
    """g / (1 - p) where the mask holds, else 0."""
    y = g * mask
    if p < 1:
        y *= 1 / (1 - p)
    return y
