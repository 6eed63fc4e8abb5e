"""Dropout: elements, or whole channels, set to zero at random and the others scaled up."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..backend.random import default_generator
from ..graph.base import TensorBase
from ..graph.function import Function
from ._arguments import raw
from ._checks import check_floating

__all__ = ["Dropout", "DropoutMask", "dropout", "feature_dropout"]


class Dropout(Function):
    """x / (1 - p) where noise >= p, else 0."""

    def forward(ctx: Any, x: Any, noise: Any, p: float) -> Any:
        y, mask = of(x).kernels.dropout(x, noise, p)
        ctx.save(mask)
        ctx.p = p
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        (mask,) = ctx.saved
        return DropoutMask.apply(g, mask=raw(mask), p=ctx.p)


class DropoutMask(Function):
    """Dropout by a mask that was drawn before; linear, so it is its own derivative."""

    def forward(ctx: Any, x: Any, mask: Any, p: float) -> Any:
        ctx.mask, ctx.p = mask, p
        return of(x).kernels.dropout_backward(x, mask, p)

    def vjp(ctx: Any, g: Any) -> Any:
        return DropoutMask.apply(g, mask=ctx.mask, p=ctx.p)


def _checked(name: str, x: Any, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p is a probability in [0, 1], got {p}")
    check_floating(name, x)


def _dropped(x: Any, p: float, shape: tuple[int, ...]) -> Any:
    array = x.array if isinstance(x, TensorBase) else x
    backend = of(array)
    noise = backend.uniform(default_generator().numpy, shape, backend.device_of(array))
    return Dropout.apply(x, noise=noise, p=p)


def dropout(input: Any, p: float = 0.5, training: bool = True) -> Any:
    """Each element 0 with probability p, else divided by 1 - p; the input itself when not training.

    The numbers follow from the context's stream (`manual_seed`). A GPU makes its own of a key that it draws there, so
    that nothing has to be copied; elsewhere a seed means the same on every device.

    Raises:
        ValueError: p is outside [0, 1].
    """
    _checked("dropout", input, p)
    return _dropped(input, p, tuple(input.shape)) if training else input


def feature_dropout(input: Any, p: float = 0.5, training: bool = True) -> Any:
    """Dropout of whole channels: (N, C, ...) loses (sample, channel) pairs.

    Raises:
        RuntimeError: fewer than two dimensions.
    """
    _checked("feature_dropout", input, p)
    if len(input.shape) < 2:
        raise RuntimeError(f"feature_dropout: needs (N, C, ...), got shape {tuple(input.shape)}")
    return _dropped(input, p, (*input.shape[:2], *(1,) * (len(input.shape) - 2))) if training else input
