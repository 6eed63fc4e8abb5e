"""What recording an operation has to do in the rarer modes: anomaly, saved-tensor hooks, memory guard."""

from __future__ import annotations

from typing import Any

from . import anomaly, guard, packing
from .modes import ANOMALY, GUARDING, PACKING

__all__ = ["record_extras"]


def record_extras(node: Any, flags: int, made: tuple[Any, ...]) -> None:
    """Called once for each recorded operation while any of EXTRAS is on."""
    if flags & ANOMALY:
        anomaly.mark(node, *(t.array for t in made))
    if node.values:
        if flags & GUARDING:
            guard.hold(node)
        if flags & PACKING:
            packing.pack(node)
