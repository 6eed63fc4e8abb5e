"""Normalisation to mean 0 and variance 1 (or to root mean square 1), forward and backward.

Layer, group and batch norm differ only in the axes over which they average and in how weight and
bias broadcast. The variance is the mean of squared deviations, never E[x^2] - E[x]^2, which cancels.
Forward returns (y, mean, rstd), with 1 / standard deviation as rstd: from these and x backward makes the
normalised values again, which saves their memory. A mean of None stands for 0.
"""

from __future__ import annotations

from typing import Any

from ._register import kernel
from ._wide import wide

__all__ = ["batch_norm", "move", "normalize", "normalize_backward"]


def _affine(xhat: Any, weight: Any, bias: Any, affine: tuple[int, ...]) -> Any:
    """xhat * weight + bias, either of them optional, in xhat's memory."""
    if weight is not None:
        xhat *= weight.reshape(affine)
    if bias is not None:
        xhat += bias.reshape(affine)
    return xhat


@kernel
def normalize(xp: Any, x: Any, weight: Any, bias: Any, eps: float, axes: tuple[int, ...], affine: tuple[int, ...],
              centered: bool) -> tuple[Any, Any, Any]:
    """(x - mean) / sqrt(var + eps) * weight + bias, with mean and variance over `axes`.

    Args:
        affine: the shape in which weight and bias broadcast against x.
        centered: False leaves the mean alone (RMS norm).
    """
    w = wide(x)
    if not w.size:
        nothing = w.sum(axes, keepdims=True)
        return x.copy(), nothing if centered else None, nothing
    mean = w.mean(axis=axes, keepdims=True) if centered else None
    xhat = w.copy() if mean is None else w - mean
    rstd = 1 / xp.sqrt((xhat * xhat).mean(axis=axes, keepdims=True) + eps)
    xhat *= rstd
    return _affine(xhat, weight, bias, affine).astype(x.dtype, copy=False), mean, rstd


def move(running_mean: Any, running_var: Any, mean: Any, var: Any, momentum: float, count: int) -> None:
    """running = (1 - momentum) * running + momentum * observed, with the unbiased variance of `count` values."""
    if running_mean is not None:
        running_mean *= 1 - momentum
        running_mean += momentum * mean
    if running_var is not None:
        running_var *= 1 - momentum
        running_var += (momentum * count / max(count - 1, 1)) * var


@kernel
def batch_norm(xp: Any, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float,
               momentum: float, training: bool) -> tuple[Any, Any, Any]:
    """Per channel (dimension 1), over all other dimensions. In training the running statistics move.

    Without training they are what x is normalised by.
    """
    w = wide(x)
    axes = (0, *range(2, x.ndim))
    affine = (1, x.shape[1], *(1,) * (x.ndim - 2))
    mean = w.mean(axis=axes) if training else running_mean.copy()  # which will have moved when backward comes
    xhat = w - mean.reshape(affine)
    if training:
        var = (xhat * xhat).mean(axis=axes)
        move(running_mean, running_var, mean, var, momentum, x.size // x.shape[1] if x.size else 0)
    else:
        var = running_var
    rstd = (1 / xp.sqrt(var + eps)).astype(w.dtype, copy=False).reshape(affine)
    xhat *= rstd
    return _affine(xhat, weight, bias, affine).astype(x.dtype, copy=False), mean.reshape(affine), rstd


@kernel
def normalize_backward(xp: Any, g: Any, x: Any, mean: Any, rstd: Any, weight: Any, axes: tuple[int, ...],
                       affine: tuple[int, ...], shape: tuple[int, ...], fixed: bool,
                       needs: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    """Gradients of x, weight and bias, None where not needed.

    With gh = g * weight: gx = rstd * (gh - mean(gh) - xhat * mean(gh * xhat)), where the mean was subtracted.

    Args:
        affine, shape: the broadcasting shape of weight and bias, and their own.
        fixed: the statistics were given, not computed from x: gx = rstd * gh.
    """
    dtype = g.dtype
    g = wide(g)
    others = tuple(i for i, n in enumerate(affine) if n == 1)
    gx = gw = gb = None
    if needs[1] or (needs[0] and not fixed):
        xhat = wide(x) * rstd if mean is None else (wide(x) - mean) * rstd
    if needs[0]:
        gx = g.copy() if weight is None else g * weight.reshape(affine)
        if not fixed and gx.size:
            along = (gx * xhat).mean(axis=axes, keepdims=True)
            if mean is not None:
                gx -= gx.mean(axis=axes, keepdims=True)
            gx -= xhat * along
        gx *= rstd
        gx = gx.astype(dtype, copy=False)
    if needs[1]:
        gw = (g * xhat).sum(axis=others).reshape(shape)
    if needs[2]:
        gb = g.sum(axis=others).reshape(shape)
    return gx, gw, gb
