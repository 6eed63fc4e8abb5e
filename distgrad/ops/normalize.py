"""Layer, group, batch and RMS normalisation: pairs of kernels, with the formula for second derivatives."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..backend.dtypes import finfo
from ..graph.base import TensorBase
from ..graph.function import Function
from . import reduce
from ._arguments import number_of, raw, size_tuple
from ._checks import check_floating, check_same_dtype
from ._composite import composite_vjp
from .pointwise import rsqrt
from .shape import reshape

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm", "Normalize", "RMSNorm", "batch_norm", "group_norm", "layer_norm",
           "rms_norm"]


def _affine(y: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    if weight is not None:
        y = y * reshape(weight, shape)
    return y if bias is None else y + reshape(bias, shape)


class Normalize(Function):
    """What the normalisations share; `inner` is the shape in which `axes` and `affine` are meant."""

    def forward(ctx: Any, x: Any, weight: Any, bias: Any, eps: float, inner: tuple[int, ...], axes: tuple[int, ...],
                affine: tuple[int, ...], centered: bool) -> Any:
        y, mean, rstd = of(x).kernels.normalize(x.reshape(inner), weight, bias, eps, axes, affine, centered)
        ctx.save(x, weight, bias, mean, rstd)
        ctx.eps, ctx.inner, ctx.axes, ctx.affine = eps, inner, axes, affine
        return y.reshape(x.shape)

    def vjp(ctx: Any, g: Any) -> Any:
        x, weight, bias, mean, rstd = ctx.saved
        inner, axes, affine = ctx.inner, ctx.axes, ctx.affine
        if isinstance(g, TensorBase):
            def formula(x: Any, weight: Any, bias: Any) -> Any:
                y = reshape(x, inner)
                if mean is not None:
                    y = y - reduce.mean(y, axes, True)
                y = y * rsqrt(reduce.mean(y * y, axes, True) + ctx.eps)
                return reshape(_affine(y, weight, bias, affine), x.shape)

            return composite_vjp(formula, (x, weight, bias), g)
        shape = () if weight is None and bias is None else (bias if weight is None else weight).shape
        gx, gw, gb = of(g).kernels.normalize_backward(
            g.reshape(inner), x.reshape(inner), mean, rstd, weight, axes, affine, shape, False,
            (ctx.needs(0), ctx.needs(1), ctx.needs(2)))
        return None if gx is None else gx.reshape(x.shape), gw, gb


class LayerNorm(Normalize):
    """Over the last dimensions of each sample."""

    name = "NativeLayerNorm"


class GroupNorm(Normalize):
    """Over each group of channels of each sample."""

    name = "NativeGroupNorm"


class RMSNorm(Normalize):
    """Over the last dimensions of each sample, by the root mean square."""


class BatchNorm(Function):
    """Per channel, over the batch or by running statistics."""

    name = "NativeBatchNorm"

    def forward(ctx: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float, momentum: float,
                training: bool) -> Any:
        y, mean, rstd = of(x).kernels.batch_norm(x, weight, bias, mean, var, eps, momentum, training)
        ctx.save(x, weight, bias, mean, rstd)
        ctx.eps, ctx.training = eps, training
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        x, weight, bias, mean, rstd = ctx.saved
        axes = (0, *range(2, len(x.shape)))
        affine = tuple(rstd.shape)
        if isinstance(g, TensorBase):
            def formula(x: Any, weight: Any, bias: Any) -> Any:
                if not ctx.training:
                    return _affine((x - mean) * rstd, weight, bias, affine)
                y = x - reduce.mean(x, axes, True)
                return _affine(y * rsqrt(reduce.mean(y * y, axes, True) + ctx.eps), weight, bias, affine)

            return composite_vjp(formula, (x, weight, bias), g)
        return of(g).kernels.normalize_backward(g, x, mean, rstd, weight, axes, affine, affine[1:2], not ctx.training,
                                                (ctx.needs(0), ctx.needs(1), ctx.needs(2)))


def _check_parameters(name: str, x: Any, shape: tuple[int, ...], **parameters: Any) -> None:
    """Raises RuntimeError unless each parameter (None passes) has this shape and the input's dtype."""
    check_floating(name, x)
    for what, parameter in parameters.items():
        if parameter is not None and tuple(parameter.shape) != shape:
            raise RuntimeError(f"{name}: for an input of shape {tuple(x.shape)} the {what} has shape {shape}, got "
                               f"{tuple(parameter.shape)}")
    check_same_dtype(name, x, **parameters)


def _over_last(kind: type[Normalize], name: str, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float,
               centered: bool) -> Any:
    shape = size_tuple(name, normalized_shape)
    ndim = len(x.shape)
    if not shape or ndim < len(shape) or tuple(x.shape[ndim - len(shape):]) != shape:
        raise RuntimeError(f"{name}: an input of shape {tuple(x.shape)} does not end in normalized_shape {shape}")
    _check_parameters(name, x, shape, weight=weight, bias=bias)
    axes = tuple(range(ndim - len(shape), ndim))
    return kind.apply(x, weight, bias, eps=eps, inner=tuple(x.shape), axes=axes,
                      affine=(1,) * (ndim - len(shape)) + shape, centered=centered)


def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimensions of each sample.

    Args:
        normalized_shape: the last dimensions' sizes; also the shape of weight and bias.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    return _over_last(LayerNorm, "layer_norm", input, normalized_shape, weight, bias, eps, True)


def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions; eps defaults to the dtype's epsilon."""
    check_floating("rms_norm", input)
    if eps is None:
        eps = float(finfo(input.dtype).eps)
    return _over_last(RMSNorm, "rms_norm", input, normalized_shape, weight, None, eps, False)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalises each of `num_groups` groups of channels of each sample; weight and bias are per channel.

    Args:
        input: (N, C, ...).

    Raises:
        RuntimeError: the channels cannot be divided into the groups, or shapes or dtypes do not fit.
    """
    if len(input.shape) < 2 or num_groups < 1 or input.shape[1] % num_groups:
        raise RuntimeError(f"group_norm: an input (N, C, ...) of shape {tuple(input.shape)} cannot be divided into "
                           f"{num_groups} groups of channels")
    n, c = input.shape[:2]
    _check_parameters("group_norm", input, (c,), weight=weight, bias=bias)
    inner = (n, num_groups, c // num_groups, number_of(input.shape[2:]))
    return GroupNorm.apply(input, weight, bias, eps=eps, inner=inner, axes=(2, 3),
                           affine=(1, num_groups, c // num_groups, 1), centered=True)


def batch_norm(input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
               training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Any:
    """Normalises each channel of (N, C, ...) over everything else.

    In training by the batch's own mean and variance, and the running statistics, if given, move in
    place: running = (1 - momentum) * running + momentum * observed, with the unbiased variance.
    Otherwise by the running statistics.

    Raises:
        ValueError: in training there is one value per channel only.
        RuntimeError: shapes or dtypes do not fit, or running statistics are missing.
    """
    shape = tuple(input.shape)
    if len(shape) < 2:
        raise RuntimeError(f"batch_norm: needs (N, C, ...), got shape {shape}")
    _check_parameters("batch_norm", input, (shape[1],), weight=weight, bias=bias)
    for what, statistic in (("running_mean", running_mean), ("running_var", running_var)):
        if statistic is None and not training:
            raise RuntimeError(f"batch_norm: outside of training {what} is needed")
        if statistic is not None and tuple(statistic.shape) != (shape[1],):
            raise RuntimeError(f"batch_norm: {what} has shape {tuple(statistic.shape)}, the input has {shape[1]} "
                               "channels")
    if training and number_of(shape) == shape[1]:
        raise ValueError(f"batch_norm: in training each channel needs more than one value, got shape {shape}")
    y = BatchNorm.apply(input, weight, bias, mean=raw(running_mean), var=raw(running_var), eps=eps,
                        momentum=momentum, training=training)
    if training:
        for statistic in (running_mean, running_var):
            if isinstance(statistic, TensorBase):
                statistic.bump()
    return y
