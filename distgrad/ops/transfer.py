"""Moving a tensor to another device, or into pinned memory of the host, inside the graph."""

from __future__ import annotations

from typing import Any

from ..backend import Device, device_of, get, move, of
from ..graph.base import TensorBase
from ..graph.function import Function, alias

__all__ = ["PinMemory", "Transfer", "pin_memory", "transfer"]


class Transfer(Function):
    """The same values on another device; the gradient travels back."""

    name = "ToCopy"
    fresh = False

    def forward(ctx: Any, x: Any, device: Device | str, non_blocking: bool = False) -> Any:
        ctx.source = device_of(x)
        return move(x, device, non_blocking)

    def vjp(ctx: Any, g: Any) -> Any:
        return transfer(g, ctx.source)


class PinMemory(Function):
    """The same values in pinned memory of the host."""

    fresh = False

    def forward(ctx: Any, x: Any, device: Device | str) -> Any:
        return get(device).pinned(x)

    def vjp(ctx: Any, g: Any) -> Any:
        return g


def transfer(x: Any, device: Device | str, non_blocking: bool = False) -> Any:
    """`x` on `device`."""
    place = get(device).place(Device(device))  # 'cuda' is this thread's device, not that of x
    if isinstance(x, TensorBase) and of(x.array).several:
        x = alias(x)  # a node where it was: there its gradients are added up
    return Transfer.apply(x, device=place, non_blocking=non_blocking)


def pin_memory(x: Any, device: Device | str) -> Any:
    """`x`, a tensor of the host, in memory that is pinned for `device`."""
    return PinMemory.apply(x, device=device)
