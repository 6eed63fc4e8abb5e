"""Dropout and its gradient. The last vector ends where the array ends; arrays have at least WIDTH elements."""

from __future__ import annotations

from typing import Any

from ..mask_vectors import drawn, kept
from ..vectors import WIDTH, fill, load, multiply, store

__all__ = ["dropout", "dropout_backward"]


def dropout(x: Any, noise: Any, y: Any, mask: Any, size: int, p: Any, scale: Any) -> None:
    factor = fill(scale)
    for i in range(0, size, WIDTH):
        at = i
        if at > size - WIDTH:
            at = size - WIDTH
        store(multiply(multiply(load(x, at), drawn(noise, mask, at, p, x)), factor), y, at)


def dropout_backward(g: Any, mask: Any, gx: Any, size: int, scale: Any) -> None:
    factor = fill(scale)
    for i in range(0, size, WIDTH):
        at = i
        if at > size - WIDTH:
            at = size - WIDTH
        store(multiply(multiply(load(g, at), kept(mask, at, g)), factor), gx, at)
