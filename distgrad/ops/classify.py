"""Losses over classes: cross entropy from scores, and the negative log likelihood.

Class indices go to fused kernels, which want (rows, classes); class probabilities are plain ops.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from . import reduce
from ._arguments import number_of, raw
from ._checks import check_floating, check_reduction
from ._composite import composite_vjp
from .pointwise import neg
from .select import where
from .shape import reshape
from .softmax import log_softmax

__all__ = ["CrossEntropy", "NLLLoss", "cross_entropy", "nll_loss"]


def _rows(xp: Any, x: Any) -> Any:
    """(N, C, d1, ...) or (C,) as (rows, C)."""
    return x if x.ndim == 2 else xp.moveaxis(x, 1, -1).reshape(-1, x.shape[1]) if x.ndim > 2 else x[None]


def _like_input(xp: Any, rows: Any, shape: tuple[int, ...]) -> Any:
    """(rows, C) back in the input's shape."""
    if len(shape) < 3:
        return rows.reshape(shape)
    return xp.ascontiguousarray(xp.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1))


class _Picked(Function):
    """What the two losses share: a derivative by coefficients, in which the logarithms are linear."""

    @staticmethod
    def composite(ctx: Any, x: Any, g: Any, logarithms: Any, r: Any, coefficients: Any) -> Any:
        """The recorded gradient of -sum(coefficients * log p), reduced."""
        xp = of(coefficients).xp
        shape = tuple(x.shape)
        coefficients = _like_input(xp, coefficients, shape)

        def formula(x: Any) -> Any:
            dim = 1 if len(shape) > 1 else 0
            # where: a class that does not count may have a probability of 0
            rows = neg(reduce.sum(where(coefficients != 0, logarithms(x, dim), 0.0) * coefficients, dim))
            if ctx.reduction == "none":
                return rows
            return reduce.sum(rows) / (r.sum().item() if ctx.reduction == "mean" else 1.0)

        return composite_vjp(formula, (x,), g)


class CrossEntropy(_Picked):
    """Softmax, logarithm, choice and reduction in one."""

    def forward(ctx: Any, x: Any, target: Any, weight: Any, ignore_index: int, smoothing: float,
                reduction: str) -> Any:
        backend = of(x)
        flat = target.reshape(-1)
        loss, *kept = backend.kernels.cross_entropy(_rows(backend.xp, x), flat, weight, ignore_index, smoothing,
                                                    reduction)
        ctx.save(x, *kept)
        ctx.target, ctx.weight, ctx.ignore_index, ctx.smoothing = flat, weight, ignore_index, smoothing
        ctx.reduction = reduction
        return loss.reshape(target.shape) if reduction == "none" else loss

    def vjp(ctx: Any, g: Any) -> Any:
        x, e, s, safe, r = ctx.saved
        kernels = of(e).kernels
        if isinstance(g, TensorBase):
            coefficients = kernels.class_coefficients(safe, r, ctx.target, e.shape[1], ctx.weight, ctx.ignore_index,
                                                      ctx.smoothing)
            return CrossEntropy.composite(ctx, x, g, log_softmax, r, coefficients)
        gx = kernels.cross_entropy_backward(g.reshape(-1) if ctx.reduction == "none" else g, e, s, safe, r, ctx.target,
                                            ctx.weight, ctx.ignore_index, ctx.smoothing, ctx.reduction)
        return _like_input(of(e).xp, gx, x.shape)


class NLLLoss(_Picked):
    """The choice and the reduction alone."""

    name = "NllLoss"

    def forward(ctx: Any, x: Any, target: Any, weight: Any, ignore_index: int, reduction: str) -> Any:
        backend = of(x)
        flat = target.reshape(-1)
        loss, *kept = backend.kernels.nll_loss(_rows(backend.xp, x), flat, weight, ignore_index, reduction)
        ctx.save(*kept)
        ctx.inside, ctx.target, ctx.ignore_index, ctx.reduction = x.shape, flat, ignore_index, reduction
        return loss.reshape(target.shape) if reduction == "none" else loss

    def vjp(ctx: Any, g: Any) -> Any:
        safe, r = ctx.saved
        shape = ctx.inside
        classes = shape[1] if len(shape) > 1 else shape[0]
        backend = of(r)
        if isinstance(g, TensorBase):
            coefficients = _like_input(backend.xp, backend.kernels.class_coefficients(
                safe, r, ctx.target, classes, None, ctx.ignore_index, 0.0), shape)
            if ctx.reduction == "none":
                g = reshape(g, (shape[0], 1, *shape[2:]) if len(shape) > 1 else (1,))
            return g * (-coefficients / (r.sum().item() if ctx.reduction == "mean" else 1.0))
        gx = backend.kernels.nll_loss_backward(g.reshape(-1) if ctx.reduction == "none" else g, safe, r, classes,
                                               ctx.reduction)
        return _like_input(backend.xp, gx, shape)


def _check_indices(name: str, x: Any, target: Any, weight: Any) -> None:
    """The shapes and dtypes of scores, class indices and class weights."""
    shape, wanted = tuple(x.shape), (*x.shape[:1], *x.shape[2:]) if len(x.shape) > 1 else ()
    if target.dtype.kind not in "iu":
        raise RuntimeError(f"{name}: class indices are integers, got {target.dtype}" +
                           (f"; class probabilities must have the input's shape {shape}, got {tuple(target.shape)}"
                            if target.dtype.kind == "f" else ""))
    if tuple(target.shape) != wanted:
        kind = ValueError if len(shape) > 1 and tuple(target.shape[:1]) != shape[:1] else RuntimeError
        raise kind(f"{name}: for an input of shape {shape} class indices have shape {wanted}, got "
                   f"{tuple(target.shape)}")


def _check_scores(name: str, x: Any, weight: Any, reduction: str) -> None:
    check_reduction(name, reduction)
    if not x.shape:
        raise RuntimeError(f"{name}: the input needs a dimension of classes, got a 0-d tensor")
    check_floating(name, x)
    classes = x.shape[1] if len(x.shape) > 1 else x.shape[0]
    if weight is not None:
        if tuple(weight.shape) != (classes,):
            raise RuntimeError(f"{name}: the weight has shape {tuple(weight.shape)}; it needs one number for each of "
                               f"the {classes} classes")
        if isinstance(weight, TensorBase) and (weight.fn is not None or weight._rg):
            raise RuntimeError(f"{name}: the class weights are constants and cannot require grad; detach() them")


def cross_entropy(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
                  label_smoothing: float = 0.0) -> Any:
    """-log(softmax(input))[target], over classes in dimension 1.

    Args:
        input: scores (N, C, d1, ...) or (C,).
        target: class indices (N, d1, ...) or (), or class probabilities of the input's shape.
        weight: (C,), each class's weight; 'mean' divides by the weights of the targets that count.
        ignore_index: a target that counts nothing (class indices only).
        reduction: 'none', 'mean' or 'sum'. A mean over nothing is NaN.
        label_smoothing: in [0, 1]: the share that is spread evenly over all classes.

    Raises:
        IndexError: a target that is no class.
        ValueError: an unknown reduction, or another number of targets than samples.
        RuntimeError: other shapes or dtypes that do not fit.
    """
    name = "cross_entropy"
    _check_scores(name, input, weight, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"{name}: label_smoothing is in [0, 1], got {label_smoothing}")
    if tuple(target.shape) == tuple(input.shape):
        return _soft_cross_entropy(name, input, target, raw(weight), ignore_index, reduction, label_smoothing)
    _check_indices(name, input, target, weight)
    return CrossEntropy.apply(input, target=raw(target), weight=raw(weight), ignore_index=ignore_index,
                              smoothing=float(label_smoothing), reduction=reduction)


def _soft_cross_entropy(name: str, x: Any, target: Any, weight: Any, ignore_index: int, reduction: str,
                        smoothing: float) -> Any:
    """-sum(target * log(softmax(x))) over classes; the mean is over samples, whatever the weights."""
    if target.dtype.kind != "f":
        raise RuntimeError(f"{name}: a target of the input's shape {tuple(x.shape)} holds class probabilities, but it "
                           f"is {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError(f"{name}: ignore_index={ignore_index} does not go with class probabilities")
    dim = 1 if len(x.shape) > 1 else 0
    classes = x.shape[dim]
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    terms = target * log_softmax(x, dim)
    if weight is not None:
        terms = terms * weight.reshape(-1, *(1,) * (len(x.shape) - 2))
    rows = neg(reduce.sum(terms, dim))
    if reduction == "none":
        return rows
    rows = reduce.sum(rows)
    return rows / (number_of(x.shape) / classes) if reduction == "mean" else rows


def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """-input[target] for logarithms of probabilities over classes in dimension 1; see cross_entropy."""
    _check_scores("nll_loss", input, weight, reduction)
    _check_indices("nll_loss", input, target, weight)
    return NLLLoss.apply(input, target=raw(target), weight=raw(weight), ignore_index=ignore_index,
                         reduction=reduction)
