"""Normalisation to mean 0 and variance 1 (or to root mean square 1), forward and backward.

Layer, group and batch norm differ only in the axes over which they average and in how weight and
bias broadcast. The variance is the mean of squared deviations, never E[x^2] - E[x]^2, which cancels.
Forward returns (y, xhat, rstd): the normalised values and 1 / standard deviation, for backward.
"""

from __future__ import annotations

from typing import Any

from ._register import kernel
from ._wide import wide

__all__ = ["batch_norm", "normalize", "normalize_backward"]


def _affine(xp: Any, xhat: Any, weight: Any, bias: Any) -> Any:
    """xhat * weight + bias, either of them optional; never xhat's own memory."""
    if weight is None:
        return xhat.copy() if bias is None else xhat + bias
    y = xhat * weight
    if bias is not None:
        y += bias
    return y


@kernel
def normalize(xp: Any, x: Any, weight: Any, bias: Any, eps: float, axes: tuple[int, ...], affine: tuple[int, ...],
              centered: bool) -> tuple[Any, Any, Any]:
    """(x - mean) / sqrt(var + eps) * weight + bias, with mean and variance over `axes`.

    Args:
        affine: the shape in which weight and bias broadcast against x.
        centered: False leaves the mean alone (RMS norm).
    """
    w = wide(x)
    if centered and w.size:
        xhat = w - w.mean(axis=axes, keepdims=True)
    else:
        xhat = w.copy()
    rstd = 1 / xp.sqrt((xhat * xhat).mean(axis=axes, keepdims=True) + eps) if w.size else w.sum(axes, keepdims=True)
    xhat *= rstd
    y = _affine(xp, xhat, None if weight is None else weight.reshape(affine),
                None if bias is None else bias.reshape(affine))
    return y.astype(x.dtype, copy=False), xhat, rstd


@kernel
def batch_norm(xp: Any, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float,
               momentum: float, training: bool) -> tuple[Any, Any, Any]:
    """Per channel (dimension 1), over all other dimensions. In training the running statistics move.

    running = (1 - momentum) * running + momentum * observed, with the unbiased variance; without
    training they are what x is normalised by.
    """
    w = wide(x)
    axes = (0, *range(2, x.ndim))
    affine = (1, x.shape[1], *(1,) * (x.ndim - 2))
    if training:
        mean = w.mean(axis=axes)
        xhat = w - mean.reshape(affine)
        var = (xhat * xhat).mean(axis=axes)
        count = x.size // x.shape[1] if x.size else 0
        if running_mean is not None:
            running_mean *= 1 - momentum
            running_mean += momentum * mean
        if running_var is not None:
            running_var *= 1 - momentum
            running_var += (momentum * count / max(count - 1, 1)) * var
    else:
        xhat = w - running_mean.reshape(affine)
        var = running_var
    rstd = (1 / xp.sqrt(var + eps)).astype(w.dtype, copy=False).reshape(affine)
    xhat *= rstd
    y = _affine(xp, xhat, None if weight is None else weight.reshape(affine),
                None if bias is None else bias.reshape(affine))
    return y.astype(x.dtype, copy=False), xhat, rstd


@kernel
def normalize_backward(xp: Any, g: Any, xhat: Any, rstd: Any, weight: Any, axes: tuple[int, ...],
                       affine: tuple[int, ...], shape: tuple[int, ...], centered: bool, fixed: bool,
                       needs: tuple[bool, bool, bool]) -> tuple[Any, Any, Any]:
    """Gradients of x, weight and bias, None where not needed.

    With gh = g * weight: gx = rstd * (gh - mean(gh) - xhat * mean(gh * xhat)).

    Args:
        affine, shape: the broadcasting shape of weight and bias, and their own.
        fixed: the statistics were given, not computed from x: gx = rstd * gh.
    """
    dtype = g.dtype
    g = wide(g)
    others = tuple(i for i, n in enumerate(affine) if n == 1)
    gx = gw = gb = None
    if needs[0]:
        gx = g.copy() if weight is None else g * weight.reshape(affine)
        if not fixed and gx.size:
            along = (gx * xhat).mean(axis=axes, keepdims=True)
            if centered:
                gx -= gx.mean(axis=axes, keepdims=True)
            gx -= xhat * along
        gx *= rstd
        gx = gx.astype(dtype, copy=False)
    if needs[1]:
        gw = (g * xhat).sum(axis=others).reshape(shape)
    if needs[2]:
        gb = g.sum(axis=others).reshape(shape)
    return gx, gw, gb
