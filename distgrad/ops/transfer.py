"""Moving a tensor to another device, inside the graph."""

from __future__ import annotations

from typing import Any

from ..backend import Device, device_of, move
from ..graph.function import Function

__all__ = ["Transfer", "transfer"]


class Transfer(Function):
    """The same values on another device; the gradient travels back."""

    name = "ToCopy"
    fresh = False

    def forward(ctx: Any, x: Any, device: Device | str) -> Any:
        ctx.source = device_of(x)
        return move(x, device)

    def vjp(ctx: Any, g: Any) -> Any:
        return transfer(g, ctx.source)


def transfer(x: Any, device: Device | str) -> Any:
    """`x` on `device`."""
    return Transfer.apply(x, device=device)
