"""Convolution and its two adjoints. Each one's derivatives are the other two, so any order exists.

With y = conv(x, w): gx = spread(g, w), gw = correlate(g, x); all three are linear in each argument.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from . import reduce
from ._checks import check_floating, check_same_dtype, pair
from .shape import reshape, squeeze, unsqueeze

__all__ = ["Convolution", "ConvolutionInput", "ConvolutionWeight", "conv1d", "conv2d", "conv_transpose2d"]


class Convolution(Function):
    """y = conv(x, w) + bias."""

    def forward(ctx: Any, x: Any, weight: Any, bias: Any, **geometry: Any) -> Any:
        ctx.save(x, weight)
        ctx.geometry = geometry
        return of(x).kernels.conv2d(x, weight, bias, **geometry)

    def vjp(ctx: Any, g: Any) -> Any:
        x, weight = ctx.saved
        return (ConvolutionInput.apply(g, weight, size=tuple(x.shape[2:]), **ctx.geometry) if ctx.needs(0) else None,
                ConvolutionWeight.apply(g, x, kernel_size=tuple(weight.shape[2:]), **ctx.geometry)
                if ctx.needs(1) else None,
                _bias_gradient(g) if ctx.needs(2) else None)


def _bias_gradient(g: Any) -> Any:
    return reduce.sum(g, (0, 2, 3)) if isinstance(g, TensorBase) else of(g).kernels.conv2d_grad_bias(g)


class ConvolutionInput(Function):
    """The gradient of a convolution's input, which is also the transposed convolution."""

    name = "ConvolutionTranspose"

    def forward(ctx: Any, g: Any, weight: Any, size: tuple[int, int], **geometry: Any) -> Any:
        ctx.save(g, weight)
        ctx.geometry = geometry
        return of(g).kernels.conv2d_grad_input(g, weight, size, **geometry)

    def vjp(ctx: Any, h: Any) -> Any:
        g, weight = ctx.saved
        return (Convolution.apply(h, weight, None, **ctx.geometry) if ctx.needs(0) else None,
                ConvolutionWeight.apply(g, h, kernel_size=tuple(weight.shape[2:]), **ctx.geometry)
                if ctx.needs(1) else None)


class ConvolutionWeight(Function):
    """The gradient of a convolution's weight."""

    def forward(ctx: Any, g: Any, x: Any, kernel_size: tuple[int, int], **geometry: Any) -> Any:
        ctx.save(g, x)
        ctx.geometry = geometry
        return of(g).kernels.conv2d_grad_weight(g, x, kernel_size, **geometry)

    def vjp(ctx: Any, h: Any) -> Any:
        g, x = ctx.saved
        return (Convolution.apply(x, h, None, **ctx.geometry) if ctx.needs(0) else None,
                ConvolutionInput.apply(g, h, size=tuple(x.shape[2:]), **ctx.geometry) if ctx.needs(1) else None)


def _pads(name: str, padding: Any, kernel_size: tuple[int, int], stride: tuple[int, int],
          dilation: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding as ((top, bottom), (left, right)); 'same' puts an odd one below and to the right."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"{name}: padding is a number, a tuple, 'same' or 'valid', got {padding!r}")
        if padding == "valid":
            return (0, 0), (0, 0)
        if stride != (1, 1):
            raise RuntimeError(f"{name}: padding='same' needs stride 1, got {stride}")
        total = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    vertical, horizontal = pair(name, "padding", padding)
    return (vertical, vertical), (horizontal, horizontal)


def _check(name: str, x: Any, weight: Any, bias: Any, groups: int, dims: int) -> None:
    """Shapes of a convolution in `dims` dimensions."""
    if len(x.shape) not in (dims + 1, dims + 2) or len(weight.shape) != dims + 2:
        raise RuntimeError(f"{name}: needs an input of {dims + 1} or {dims + 2} dimensions and a weight of {dims + 2}, "
                           f"got shapes {tuple(x.shape)} and {tuple(weight.shape)}")
    channels, (out, depth) = x.shape[-dims - 1], weight.shape[:2]
    if groups < 1 or channels != depth * groups or out % groups:
        raise RuntimeError(f"{name}: with groups={groups}, a weight (out, in / groups, ...) of shape "
                           f"{tuple(weight.shape)} does not fit an input of shape {tuple(x.shape)} with {channels} "
                           "channels")
    _check_bias(name, x, weight, bias, out)


def _check_bias(name: str, x: Any, weight: Any, bias: Any, out: int) -> None:
    if bias is not None and tuple(bias.shape) != (out,):
        raise RuntimeError(f"{name}: the bias has shape {tuple(bias.shape)}, the weight gives {out} channels")
    check_floating(name, x)
    check_same_dtype(name, x, weight=weight, bias=bias)


def conv2d(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1) -> Any:
    """Cross-correlation of images with kernels, y[o] = sum_c x[c] * w[o, c] + bias[o].

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (O, C / groups, kh, kw).
        bias: (O,) or None.
        stride, dilation: one number or (vertical, horizontal).
        padding: zeros at each side: one number, (vertical, horizontal), 'same' or 'valid'.

    Returns:
        (N, O, H', W') with H' = (H + 2 * padding - dilation * (kh - 1) - 1) // stride + 1.

    Raises:
        RuntimeError: shapes, dtypes or settings do not fit.
    """
    _check("conv2d", input, weight, bias, groups, 2)
    return _conv("conv2d", input, weight, bias, pair("conv2d", "stride", stride, 1), padding,
                 pair("conv2d", "dilation", dilation, 1), groups)


def _conv(name: str, x: Any, weight: Any, bias: Any, stride: tuple[int, int], padding: Any,
          dilation: tuple[int, int], groups: int) -> Any:
    kernel_size = tuple(weight.shape[2:])
    pads = _pads(name, padding, kernel_size, stride, dilation)
    for n, k, d, both in zip(x.shape[-2:], kernel_size, dilation, pads, strict=True):
        if n + sum(both) < d * (k - 1) + 1:
            raise RuntimeError(f"{name}: a kernel of size {kernel_size} with dilation {dilation} is larger than the "
                               f"input of shape {tuple(x.shape)} with padding {pads}")
    geometry = {"stride": stride, "pads": pads, "dilation": dilation, "groups": groups}
    if len(x.shape) == 3:
        return squeeze(Convolution.apply(unsqueeze(x, 0), weight, bias, **geometry), 0)
    return Convolution.apply(x, weight, bias, **geometry)


def _single(name: str, what: str, value: Any, least: int = 0) -> int:
    """An integer, or a sequence of one."""
    return pair(name, what, value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value, least)[1]


def conv1d(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1) -> Any:
    """Cross-correlation along one dimension: input (N, C, L) or (C, L), weight (O, C / groups, k); see conv2d."""
    _check("conv1d", input, weight, bias, groups, 1)
    if not isinstance(padding, str):
        padding = (0, _single("conv1d", "padding", padding))
    y = _conv("conv1d", unsqueeze(input, -2), unsqueeze(weight, -2), bias,
              (1, _single("conv1d", "stride", stride, 1)), padding,
              (1, _single("conv1d", "dilation", dilation, 1)), groups)
    return squeeze(y, -2)


def conv_transpose2d(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Any:
    """The transposed convolution: what carries a gradient back through conv2d, as an operation of its own.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (C, O / groups, kh, kw).
        output_padding: rows and columns more at the lower right; less than the stride.

    Returns:
        (N, O, H', W') with H' = (H - 1) * stride - 2 * padding + dilation * (kh - 1) + output_padding + 1.
    """
    name = "conv_transpose2d"
    stride, dilation = pair(name, "stride", stride, 1), pair(name, "dilation", dilation, 1)
    padding, extra = pair(name, "padding", padding), pair(name, "output_padding", output_padding)
    if len(input.shape) not in (3, 4) or len(weight.shape) != 4 or groups < 1 or \
            input.shape[-3] != weight.shape[0] or weight.shape[0] % groups:
        raise RuntimeError(f"{name}: with groups={groups}, a weight (in, out / groups, kh, kw) of shape "
                           f"{tuple(weight.shape)} does not fit an input of shape {tuple(input.shape)}")
    _check_bias(name, input, weight, bias, weight.shape[1] * groups)
    if extra[0] >= stride[0] or extra[1] >= stride[1]:
        raise RuntimeError(f"{name}: output_padding {extra} must be less than the stride {stride}")
    size = tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in
                 zip(input.shape[-2:], stride, padding, dilation, weight.shape[2:], extra, strict=True))
    if min(size) < 1:
        raise RuntimeError(f"{name}: an input of shape {tuple(input.shape)} would give an output of size {size}")
    x = unsqueeze(input, 0) if len(input.shape) == 3 else input
    y = ConvolutionInput.apply(x, weight, size=size, stride=stride, dilation=dilation, groups=groups,
                               pads=((padding[0], padding[0]), (padding[1], padding[1])))
    if bias is not None:
        y = y + reshape(bias, (1, -1, 1, 1))
    return squeeze(y, 0) if len(input.shape) == 3 else y
