"""Pooling. Maxima gather at the winners' places and averages are linear: their derivatives are adjoints."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.function import Function
from ._arguments import number_of, raw
from ._checks import check_floating, pair
from ._kernels import Kernels
from .linear import Linear
from .shape import squeeze, transpose, unsqueeze

__all__ = ["AvgPool2d", "AvgPool2dSpread", "MaxPool2d", "MaxPool2dGather", "MaxPool2dSpread", "adaptive_avg_pool1d",
           "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d"]


class MaxPool2d(Function):
    """The maximum of each window, and with `indices` its place in the plane."""

    name = "MaxPool2DWithIndices"

    def forward(ctx: Any, x: Any, indices: bool, **window: Any) -> Any:
        y, where = of(x).kernels.max_pool2d(x, **window)
        ctx.save(where)
        del window["out"]
        ctx.size, ctx.window = x.shape[2:], window
        return (y, where) if indices else y

    def vjp(ctx: Any, g: Any) -> Any:
        (where,) = ctx.saved
        return MaxPool2dSpread.apply(g[0] if isinstance(g, list) else g, where=raw(where), size=ctx.size, **ctx.window)


class MaxPool2dSpread(Function):
    """Values added up at places of a plane, each in its window."""

    def forward(ctx: Any, g: Any, where: Any, size: tuple[int, int], **window: Any) -> Any:
        ctx.where, ctx.window = where, window
        return of(g).kernels.max_pool2d_backward(g, where, size, **window)

    def vjp(ctx: Any, h: Any) -> Any:
        return MaxPool2dGather.apply(h, where=ctx.where, **ctx.window)


class MaxPool2dGather(Function):
    """The elements at places of a plane, each in its window."""

    def forward(ctx: Any, x: Any, where: Any, **window: Any) -> Any:
        ctx.where, ctx.size, ctx.window = where, x.shape[2:], window
        return of(x).kernels.max_pool2d_gather(x, where)

    def vjp(ctx: Any, g: Any) -> Any:
        return MaxPool2dSpread.apply(g, where=ctx.where, size=ctx.size, **ctx.window)


class AvgPool2d(Function):
    """The mean of each window."""

    name = "AvgPool2D"

    def forward(ctx: Any, x: Any, **window: Any) -> Any:
        ctx.window, ctx.size = window, x.shape[2:]
        return of(x).kernels.avg_pool2d(x, **window)

    def vjp(ctx: Any, g: Any) -> Any:
        return AvgPool2dSpread.apply(g, size=ctx.size, **ctx.window)


class AvgPool2dSpread(Function):
    """Each window's share of a value given to its places."""

    def forward(ctx: Any, g: Any, size: tuple[int, int], **window: Any) -> Any:
        ctx.window = window
        return of(g).kernels.avg_pool2d_backward(g, size, **window)

    def vjp(ctx: Any, h: Any) -> Any:
        return AvgPool2d.apply(h, **ctx.window)


def _out(size: int, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows fit; with ceil_mode one may stick out, but must begin inside or in the left padding."""
    room = size + 2 * padding - dilation * (kernel_size - 1) - 1
    out = -(-room // stride) + 1 if ceil_mode else room // stride + 1
    return out - 1 if ceil_mode and (out - 1) * stride >= size + padding else out


def _window(name: str, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
            ceil_mode: bool) -> dict[str, Any]:
    """The checked window in pairs, with the size of the result.

    Raises:
        RuntimeError: the window does not fit the input or the padding the window.
    """
    kernel_size = pair(name, "kernel_size", kernel_size, 1)
    stride = kernel_size if stride is None or stride == [] or stride == () else pair(name, "stride", stride, 1)
    padding, dilation = pair(name, "padding", padding), pair(name, "dilation", dilation, 1)
    if len(x.shape) != 4:
        raise RuntimeError(f"{name}: needs channels and planes, with or without a batch in front, got an input of "
                           f"{len(x.shape)} dimensions")
    for p, k, d in zip(padding, kernel_size, dilation, strict=True):
        if 2 * p > d * (k - 1) + 1:
            raise RuntimeError(f"{name}: padding {padding} is more than half of the kernel {kernel_size} with dilation "
                               f"{dilation}")
    out = tuple(_out(*sizes, ceil_mode) for sizes in
                zip(x.shape[2:], kernel_size, stride, padding, dilation, strict=True))
    if min(out) < 1:
        raise RuntimeError(f"{name}: a kernel of size {kernel_size} is larger than the input of shape "
                           f"{tuple(x.shape)} with padding {padding}")
    return {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation, "out": out}


def _batched(x: Any) -> Any:
    return unsqueeze(x, 0) if len(x.shape) == 3 else x


def _unbatched(y: Any, x: Any) -> Any:
    """The result with as many dimensions as the input had; a tuple element by element."""
    if len(x.shape) != 3:
        return y
    return tuple(squeeze(part, 0) for part in y) if isinstance(y, tuple) else squeeze(y, 0)


def _flat(name: str, what: str, value: Any) -> Any:
    """A setting along one dimension as one for planes of height 1."""
    if value is None:
        return None
    lowest = 0 if what == "padding" else 1
    return lowest, pair(name, what, value, lowest)[1]


def max_pool2d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The largest element of each window of (N, C, H, W) or (C, H, W); the gradient goes to the first of equals.

    Args:
        stride: between windows; the kernel's size unless given.
        padding: at each side, with -inf; at most half of the kernel.
        ceil_mode: a last window may stick out at the end.
        return_indices: also return each winner's place row * W + column.
    """
    x = _batched(input)
    window = _window("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
    return _unbatched(MaxPool2d.apply(x, indices=return_indices, **window), input)


def max_pool1d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:
    """The largest element of each window of (N, C, L) or (C, L); see max_pool2d."""
    settings = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    y = max_pool2d(unsqueeze(input, -2), ceil_mode=ceil_mode, return_indices=return_indices,
                   **{what: _flat("max_pool1d", what, value) for what, value in settings.items()})
    return tuple(squeeze(part, -2) for part in y) if return_indices else squeeze(y, -2)


def avg_pool2d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Any:
    """The mean of each window of (N, C, H, W) or (C, H, W).

    Args:
        count_include_pad: zeros of the padding count as elements.
        divisor_override: what sums are divided by instead of the window's size.

    Raises:
        RuntimeError: the window or the padding do not fit, or the divisor is 0.
    """
    if divisor_override == 0:
        raise RuntimeError("avg_pool2d: divisor_override must not be 0")
    check_floating("avg_pool2d", input)
    x = _batched(input)
    window = _window("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    del window["dilation"]
    return _unbatched(AvgPool2d.apply(x, include_pad=count_include_pad, divisor=divisor_override, **window), input)


def avg_pool1d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True) -> Any:
    """The mean of each window of (N, C, L) or (C, L); see avg_pool2d."""
    settings = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    return squeeze(avg_pool2d(unsqueeze(input, -2), ceil_mode=ceil_mode, count_include_pad=count_include_pad,
                              **{what: _flat("avg_pool1d", what, value) for what, value in settings.items()}), -2)


def _averaging(xp: Any, like: Any, size: int, out: int) -> Any:
    """The matrix (out, size) whose rows average over size * i // out up to size * (i + 1) / out, rounded up."""
    matrix = xp.zeros((out, size), like.dtype)
    for i in range(out):
        first, last = size * i // out, -(-size * (i + 1) // out)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


_averages = Kernels(_averaging)


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over windows that divide (..., H, W) as evenly as possible into `output_size`.

    Args:
        output_size: one number or (rows, columns); None keeps that size.
    """
    check_floating("adaptive_avg_pool2d", input)
    if len(input.shape) not in (3, 4):
        raise RuntimeError(f"adaptive_avg_pool2d: needs (N, C, H, W) or (C, H, W), got shape {tuple(input.shape)}")
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    h, w = input.shape[-2:]
    rows, columns = (n if size is None else size for n, size in zip((h, w), sizes, strict=True))
    pair("adaptive_avg_pool2d", "output_size", (rows, columns), 1)
    if number_of((h, w)) and h % rows == 0 and w % columns == 0:
        return avg_pool2d(input, (h // rows, w // columns))
    across = Linear.apply(input, _averages(raw(input), w, columns), None)
    down = Linear.apply(transpose(across, -1, -2), _averages(raw(input), h, rows), None)
    return transpose(down, -1, -2)


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:
    """Means over windows that divide the last dimension as evenly as possible; see adaptive_avg_pool2d."""
    size = output_size[0] if isinstance(output_size, (tuple, list)) else output_size
    return squeeze(adaptive_avg_pool2d(unsqueeze(input, -2), (1, size)), -2)
