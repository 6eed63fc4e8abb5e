"""Moving a tensor to another device, inside the graph."""

from __future__ import annotations

from typing import Any

from ..backend import Device, get, of
from ..graph.function import Function

__all__ = ["Transfer", "transfer"]


class Transfer(Function):
    """The same values on another device; the gradient travels back."""

    name = "ToCopy"
    fresh = False

    def forward(ctx: Any, x: Any, device: Device | str) -> Any:
        source = of(x)
        ctx.source = source.device
        return get(device).from_host(source.to_host(x))

    def vjp(ctx: Any, g: Any) -> Any:
        return transfer(g, ctx.source)


def transfer(x: Any, device: Device | str) -> Any:
    """`x` on `device`."""
    return Transfer.apply(x, device=device)
