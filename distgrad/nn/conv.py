"""Convolution layers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .._tensor.creation import empty
from ..ops.conv import conv1d, conv2d, conv_transpose2d
from ..ops.shape import pad
from . import init
from .module import Module
from .parameter import Parameter

__all__ = ["Conv1d", "Conv2d", "ConvTranspose2d"]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """Settings, parameters and their starting values, which all convolutions share; see Conv2d."""

    dimensions: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
                 dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
                 device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if groups <= 0 or in_channels % groups or out_channels % groups:
            raise ValueError(f"{groups} groups do not divide {in_channels} input and {out_channels} output channels")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"padding_mode is one of {', '.join(_PADDING_MODES)}, got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self._each("kernel_size", kernel_size)
        self.stride = self._each("stride", stride)
        self.dilation = self._each("dilation", dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding is a number, one for each dimension, 'same' or 'valid', got {padding!r}")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError(f"padding='same' needs stride 1, got {self.stride}")
            self.padding: Any = padding
        else:
            self.padding = self._each("padding", padding)
        channels = (in_channels, out_channels // groups) if self.transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(empty(*channels, *self.kernel_size, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _each(self, name: str, value: Any) -> tuple[int, ...]:
        """One number for each dimension."""
        found = (value,) * self.dimensions if isinstance(value, int) else tuple(value)
        if len(found) != self.dimensions:
            raise ValueError(f"{self._get_name()}: {name} is one number or {self.dimensions}, got {value!r}")
        return found

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        fan = self.weight.shape[1] * math.prod(self.kernel_size)
        bound = 1 / math.sqrt(fan) if fan else 0.0
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def _padded(self, input: Any) -> tuple[Any, Any]:
        """The input and the padding that is left to the op, after modes other than zeros."""
        if self.padding_mode == "zeros" or self.padding == "valid":
            return input, self.padding
        widths: list[int] = []
        for d in reversed(range(self.dimensions)):
            total = self.dilation[d] * (self.kernel_size[d] - 1) if self.padding == "same" else 2 * self.padding[d]
            widths += [total // 2, total - total // 2]
        return pad(input, widths, self.padding_mode), 0

    def extra_repr(self) -> str:
        zero, one = (0,) * self.dimensions, (1,) * self.dimensions
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        usual = {"padding": zero, "dilation": one, "output_padding": zero, "groups": 1}
        parts += [f"{name}={getattr(self, name)}" for name, value in usual.items()
                  if getattr(self, name, value) != value]
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class Conv1d(_Conv):
    """Cross-correlation over (N, C, L) or (C, L). Arguments and parameters as for Conv2d, in one dimension."""

    dimensions = 1

    def forward(self, input: Any) -> Any:
        input, padding = self._padded(input)
        return conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Cross-correlation over (N, C, H, W) or (C, H, W).

    Args:
        in_channels, out_channels: channels of input and result; `groups` divides both.
        kernel_size, stride, dilation: one number, or one for each dimension.
        padding: zeros at each side: one number, one for each dimension, 'same' or 'valid'.
        groups: the channels are split into groups, each convolved on its own.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular': what stands outside of the input.

    weight (out_channels, in_channels / groups, *kernel_size) and bias (out_channels,) start from
    U(-k, k), k = sqrt(groups / (in_channels * elements of the kernel)).
    """

    dimensions = 2

    def forward(self, input: Any) -> Any:
        input, padding = self._padded(input)
        return conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class ConvTranspose2d(_Conv):
    """Transposed convolution over (N, C, H, W) or (C, H, W): what carries a gradient back through Conv2d.

    Args:
        output_padding: rows and columns more at the lower right; less than the stride.

    weight is (in_channels, out_channels / groups, *kernel_size); other arguments as for Conv2d.
    """

    dimensions = 2
    transposed = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
                 output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1,
                 padding_mode: str = "zeros", device: Any = None, dtype: Any = None) -> None:
        if padding_mode != "zeros" or isinstance(padding, str):
            raise ValueError("ConvTranspose2d: padding is numbers of zeros, without modes")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         device, dtype)
        self.output_padding = self._each("output_padding", output_padding)

    def forward(self, input: Any) -> Any:
        return conv_transpose2d(input, self.weight, self.bias, self.stride, self.padding, self.output_padding,
                                self.groups, self.dilation)
