"""Classification losses over class indices, forward and backward, each with its reduction.

Scores are (rows, classes) here; ops bring other shapes into that form. What forward returns after
the loss is what backward wants again.
"""

from __future__ import annotations

import math
from typing import Any

from ..base import of
from ._register import kernel
from ._wide import wide

__all__ = ["class_coefficients", "cross_entropy", "cross_entropy_backward", "nll_loss", "nll_loss_backward",
           "probabilities", "row_weights"]


@kernel
def row_weights(xp: Any, target: Any, classes: int, weight: Any, ignore_index: int, dtype: Any) -> tuple[Any, Any]:
    """The target with ignored rows set to class 0, and each row's weight: 0 where ignored.

    Raises:
        IndexError: a target that is neither a class nor `ignore_index`. On a device which would have to wait for the
            answer, such a row weighs NaN instead.
    """
    kept = target != ignore_index
    safe = xp.where(kept, target, 0).astype("int64", copy=False)
    outside = (safe < 0) | (safe >= classes)
    if not of(safe).kernels.in_range(safe, 0, classes):
        wrong = safe[outside][0].item()
        raise IndexError(f"target {wrong} is no class: there are {classes} classes, numbered from 0, and "
                         f"ignore_index is {ignore_index}")
    safe, r = xp.where(outside, 0, safe), xp.where(outside, math.nan, kept).astype(dtype)
    if weight is not None:
        r *= weight[safe]
    return safe, r


def _reduced(losses: Any, r: Any, reduction: str) -> Any:
    """The losses of the rows, their sum, or their mean with the rows' weights as denominator."""
    if reduction == "none":
        return losses
    total = losses.sum()
    return total / r.sum() if reduction == "mean" else total


def _row_gradients(g: Any, r: Any, reduction: str) -> Any:
    """The gradient of each row's loss, before its own weight: (rows,) or one number."""
    return g / r.sum() if reduction == "mean" else g


@kernel
def cross_entropy(xp: Any, x: Any, target: Any, weight: Any, ignore_index: int, smoothing: float,
                  reduction: str) -> tuple[Any, Any, Any, Any, Any]:
    """-log(softmax(x))[target] of each row, reduced; with label smoothing and class weights.

    Returns:
        (loss, e, s, safe, r): e = exp(x - max) and its row sums s, so that backward needs no exp.
    """
    rows, classes = x.shape
    w = wide(x)
    if weight is not None:
        weight = weight.astype(w.dtype, copy=False)
    safe, r = row_weights(xp, target, classes, weight, ignore_index, w.dtype)
    shifted = xp.subtract(w, w.max(axis=1, keepdims=True)) if x.size else w
    e = xp.exp(shifted)
    s = e.sum(axis=1)
    log_s = xp.log(s)
    kept = target != ignore_index
    losses = xp.where(kept, (log_s - shifted[xp.arange(rows), safe]) * r, 0)
    loss = _reduced(losses, r, reduction)
    if smoothing:
        spread = log_s[:, None] - shifted
        spread = xp.where(kept, spread.sum(axis=1) if weight is None else spread @ weight, 0)
        # Reduced apart: where all weights that count are 0, the first part must stay NaN.
        loss = (1 - smoothing) * loss + (smoothing / classes) * _reduced(spread, r, reduction)
    return loss.astype(x.dtype, copy=False), e, s, safe, r


@kernel
def cross_entropy_backward(xp: Any, g: Any, e: Any, s: Any, safe: Any, r: Any, target: Any, weight: Any,
                           ignore_index: int, smoothing: float, reduction: str) -> Any:
    """softmax(x) * (what the row's classes weigh together) - what each class weighs, times the row's g."""
    rows, classes = e.shape
    row = _row_gradients(wide(g), r, reduction)
    picked = (1 - smoothing) * (r * row)
    if not smoothing:
        gx = e * (picked / s)[:, None]
    else:
        if weight is not None:
            weight = weight.astype(e.dtype, copy=False)
        spread = (smoothing / classes) * xp.where(target != ignore_index, row, 0)
        total = classes if weight is None else weight.sum()
        gx = e * ((picked + spread * total) / s)[:, None]
        gx -= spread[:, None] if weight is None else spread[:, None] * weight
    gx[xp.arange(rows), safe] -= picked
    gx[target == ignore_index] = 0  # not a product with 0: an ignored row may hold inf or NaN
    return gx.astype(g.dtype, copy=False)


@kernel
def nll_loss(xp: Any, x: Any, target: Any, weight: Any, ignore_index: int,
             reduction: str) -> tuple[Any, Any, Any]:
    """-x[target] of each row, weighted and reduced. Returns (loss, safe, r)."""
    rows, classes = x.shape
    w = wide(x)
    if weight is not None:
        weight = weight.astype(w.dtype, copy=False)
    safe, r = row_weights(xp, target, classes, weight, ignore_index, w.dtype)
    losses = xp.where(target != ignore_index, -w[xp.arange(rows), safe] * r, 0)
    return _reduced(losses, r, reduction).astype(x.dtype, copy=False), safe, r


@kernel
def nll_loss_backward(xp: Any, g: Any, safe: Any, r: Any, classes: int, reduction: str) -> Any:
    """-g * r at the target, 0 elsewhere."""
    gx = xp.zeros((safe.shape[0], classes), r.dtype)
    gx[xp.arange(safe.shape[0]), safe] = -(_row_gradients(wide(g), r, reduction) * r)
    return gx.astype(g.dtype, copy=False)


@kernel
def probabilities(xp: Any, x: Any) -> bool:
    """Whether all elements are in [0, 1]. A device on which asking would mean to wait may answer True."""
    return bool(((x >= 0) & (x <= 1)).all())


@kernel
def class_coefficients(xp: Any, safe: Any, r: Any, target: Any, classes: int, weight: Any, ignore_index: int,
                       smoothing: float) -> Any:
    """How much each class's -log p counts in each row's loss: (rows, classes)."""
    rows = safe.shape[0]
    out = xp.zeros((rows, classes), r.dtype)
    if smoothing:
        out += smoothing / classes if weight is None else (smoothing / classes) * weight.astype(r.dtype, copy=False)
        out[target == ignore_index] = 0
    out[xp.arange(rows), safe] += (1 - smoothing) * r
    return out
