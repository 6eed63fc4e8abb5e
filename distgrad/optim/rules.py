"""The update rules: what one step does to parameters, as functions over flat arrays, in place.

A rule is called once as rule(ps, arrays): parameters of one dimension, one dtype and one count of steps, and
the optimizer's own arrays for them by name. What it returns is called at each step as update(gs, options,
step, factor): their gradients, the optimizer's options by name, the number of this step from 1, and a factor
that multiplies gradients as they are read (a clip still to be applied, or -1 to maximize): a number, or an array of
one element where only the device knows the number. Rules know neither
tensors nor ranks: the same function serves whole parameters, or a rank's share of flat memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._typing import Array
from ..backend import of

__all__ = ["Rule", "Update", "adagrad", "adam", "rmsprop", "sgd"]

Update = Callable[[Sequence[Array], Mapping[str, Any], int, float | Array], None]
Rule = Callable[[Sequence[Array], Mapping[str, Sequence[Array]]], Update]


def sgd(ps: Sequence[Array], arrays: Mapping[str, Sequence[Array]]) -> Update:
    """p -= lr * d, with d = factor * g + weight_decay * p, through `momentum_buffer` if there is one."""
    plan = of(ps[0]).kernels.sgd_plan(ps, arrays.get("momentum_buffer"))

    def update(gs: Sequence[Array], options: Mapping[str, Any], step: int, factor: float | Array) -> None:
        plan(gs, float(options["lr"]), float(options["momentum"]), float(options["dampening"]),
             float(options["weight_decay"]), bool(options["nesterov"]), step == 1, factor)

    return update


def adam(ps: Sequence[Array], arrays: Mapping[str, Sequence[Array]]) -> Update:
    """p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps); m is `exp_avg`, v `exp_avg_sq`."""
    plan = of(ps[0]).kernels.adam_plan(ps, arrays["exp_avg"], arrays["exp_avg_sq"], arrays.get("max_exp_avg_sq"))

    def update(gs: Sequence[Array], options: Mapping[str, Any], step: int, factor: float | Array) -> None:
        beta1, beta2 = options["betas"]
        plan(gs, float(options["lr"]), float(beta1), float(beta2), float(options["eps"]),
             float(options["weight_decay"]), bool(options["decoupled_weight_decay"]), step, factor)

    return update


def _one_by_one(rule: Callable[..., None]) -> Rule:
    """A rule for many parameters from one over a single one, (p, g, its arrays by name, options, step, factor)."""

    def many(ps: Sequence[Array], arrays: Mapping[str, Sequence[Array]]) -> Update:
        def update(gs: Sequence[Array], options: Mapping[str, Any], step: int, factor: float | Array) -> None:
            for i, (p, g) in enumerate(zip(ps, gs, strict=True)):
                rule(p, g, {name: each[i] for name, each in arrays.items()}, options, step, factor)

        return update

    many.__doc__ = rule.__doc__
    return many


def _direction(p: Array, g: Array, options: Mapping[str, Any], factor: float | Array) -> Array:
    """factor * g + weight_decay * p, in new memory."""
    d = g * factor
    if options["weight_decay"]:
        d += p * float(options["weight_decay"])
    return d


@_one_by_one
def adagrad(p: Array, g: Array, arrays: Mapping[str, Array], options: Mapping[str, Any], step: int,
            factor: float | Array) -> None:
    """sum += d^2;  p -= lr / (1 + (step - 1) * lr_decay) * d / (sqrt(sum) + eps) (Duchi et al., 2011)."""
    xp = of(p).xp
    d = _direction(p, g, options, factor)
    total = arrays["sum"]
    total += d * d
    root = xp.sqrt(total)
    root += float(options["eps"])
    d /= root
    d *= float(options["lr"]) / (1 + (step - 1) * float(options["lr_decay"]))
    p -= d


@_one_by_one
def rmsprop(p: Array, g: Array, arrays: Mapping[str, Array], options: Mapping[str, Any], step: int,
            factor: float | Array) -> None:
    """v = alpha * v + (1 - alpha) * d^2;  p -= lr * d / (sqrt(v) + eps) (Tieleman and Hinton, 2012).

    Centered: the root is of v - mean^2, where mean is the running mean of d (`grad_avg`). With momentum
    the quotient goes through `momentum_buffer` = momentum * buffer + quotient.
    """
    xp = of(p).xp
    alpha = float(options["alpha"])
    d = _direction(p, g, options, factor)
    v, mean, buffer = arrays["square_avg"], arrays.get("grad_avg"), arrays.get("momentum_buffer")
    v *= alpha
    v += (1 - alpha) * (d * d)
    if mean is None:
        root = xp.sqrt(v)
    else:
        mean += (1 - alpha) * (d - mean)
        root = xp.sqrt(v - mean * mean)
    root += float(options["eps"])
    d /= root
    if buffer is not None:
        buffer *= float(options["momentum"])
        buffer += d
        d = buffer * float(options["lr"])
    else:
        d *= float(options["lr"])
    p -= d
