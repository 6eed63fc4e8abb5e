"""Losses between numbers: one row for each elementwise formula, then one reduction.

Losses over classes come from `classify` and are named here with the others.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from . import pointwise as P
from . import reduce
from ._arguments import raw
from ._checks import check_floating, check_reduction
from ._declare import binary
from .classify import cross_entropy, nll_loss
from .pointwise import exp, log_sigmoid, xlogy
from .reduce import sum as total
from .select import clamp, where

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_similarity", "cross_entropy",
           "huber_loss", "kl_div", "l1_loss", "mse_loss", "nll_loss", "smooth_l1_loss"]


def _clamped_log(xp: Any, x: Any) -> Any:
    return xp.maximum(xp.log(x), -100)


def _squared(xp: Any, a: Any, b: Any) -> Any:
    d = xp.subtract(a, b)
    return d * d


def _entropy(xp: Any, x: Any, t: Any) -> Any:
    """-(t log x + (1 - t) log(1 - x)), with logarithms no smaller than -100."""
    return -(t * _clamped_log(xp, x) + (1 - t) * xp.maximum(xp.log1p(-x), -100))


_mse = binary("mse_loss", _squared, da=lambda a, b: 2 * (a - b), db=lambda a, b: 2 * (b - a), floating=True)
_bce = binary("binary_cross_entropy", _entropy, da=lambda a, b: (a - b) / clamp(a * (1 - a), min=1e-12),
              db=lambda a: P.log1p(-a) - P.log(a), floating=True)


def _reduced(loss: Any, reduction: str) -> Any:
    if reduction == "none":
        return loss
    return reduce.mean(loss) if reduction == "mean" else total(loss)


def _weighted(loss: Any, weight: Any, reduction: str) -> Any:
    return _reduced(loss if weight is None else loss * weight, reduction)


def mse_loss(input: Any, target: Any, reduction: str = "mean", weight: Any = None) -> Any:
    """(input - target)^2; shapes broadcast.

    Args:
        reduction: 'none', 'mean' (over all elements) or 'sum'.
        weight: multiplies each element's loss.

    Raises:
        ValueError: an unknown reduction.
    """
    check_reduction("mse_loss", reduction)
    check_floating("mse_loss", input)
    return _weighted(_mse(input, target), weight, reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean", weight: Any = None) -> Any:
    """|input - target|; the derivative where they are equal is 0."""
    check_reduction("l1_loss", reduction)
    check_floating("l1_loss", input)
    return _weighted(P.abs(input - target), weight, reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Any:
    """d^2 / 2 where |d| < delta, else delta * (|d| - delta / 2), for d = input - target.

    Raises:
        RuntimeError: delta is not positive.
    """
    check_reduction("huber_loss", reduction)
    check_floating("huber_loss", input)
    if delta <= 0:
        raise RuntimeError(f"huber_loss: delta is positive, got {delta}")
    distance = P.abs(input - target)
    near = distance < delta
    inner = where(near, distance, 0.0)  # an infinite distance must not meet the square's derivative
    return _weighted(where(near, 0.5 * inner * inner, delta * (distance - 0.5 * delta)), weight, reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """d^2 / (2 * beta) where |d| < beta, else |d| - beta / 2; beta = 0 is l1_loss.

    Raises:
        RuntimeError: beta is negative.
    """
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss: beta is not negative, got {beta}")
    if beta == 0:
        return l1_loss(input, target, reduction)
    return huber_loss(input, target, reduction, beta) / beta


def _check_equal_shapes(name: str, input: Any, target: Any, reduction: str) -> None:
    check_reduction(name, reduction)
    check_floating(name, input)
    if tuple(input.shape) != tuple(target.shape):
        raise ValueError(f"{name}: the input has shape {tuple(input.shape)}, the target {tuple(target.shape)}; they "
                         "must be equal")


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """-(t log x + (1 - t) log(1 - x)) for probabilities x; logarithms are no smaller than -100.

    Raises:
        ValueError: shapes differ.
        RuntimeError: an element of the input is outside [0, 1] (on a GPU, which is not asked, the loss is NaN).
    """
    _check_equal_shapes("binary_cross_entropy", input, target, reduction)
    if not of(raw(input)).kernels.probabilities(raw(input)):
        raise RuntimeError("binary_cross_entropy: inputs are probabilities in [0, 1]; for scores use "
                           "binary_cross_entropy_with_logits")
    return _weighted(_bce(input, target), weight, reduction)


def binary_cross_entropy_with_logits(input: Any, target: Any, weight: Any = None, reduction: str = "mean",
                                     pos_weight: Any = None) -> Any:
    """binary_cross_entropy of sigmoid(input), without its loss of digits.

    Args:
        pos_weight: multiplies the positive term; broadcasts.

    Raises:
        ValueError: shapes differ.
    """
    _check_equal_shapes("binary_cross_entropy_with_logits", input, target, reduction)
    certain = log_sigmoid(input)
    if pos_weight is not None:
        certain = certain * ((pos_weight - 1) * target + 1)
    return _weighted((1 - target) * input - certain, weight, reduction)


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """target * (log(target) - input), where input (and with `log_target` the target) are logarithms.

    'batchmean' is the divergence: the sum divided by the first dimension.
    """
    check_reduction("kl_div", reduction, "batchmean")
    loss = exp(target) * (target - input) if log_target else xlogy(target, target) - target * input
    if reduction == "batchmean":
        return total(loss) / (input.shape[0] if input.shape else 1)
    return _reduced(loss, reduction)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """x1 . x2 / (max(|x1|, eps) * max(|x2|, eps)) along `dim`; shapes broadcast."""
    lengths = [clamp(total(x * x, dim, True), min=eps * eps) for x in (x1, x2)]
    return total((x1 * P.rsqrt(lengths[0])) * (x2 * P.rsqrt(lengths[1])), dim)
