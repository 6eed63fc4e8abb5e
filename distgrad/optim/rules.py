"""The update rules: what one step does to parameters, as functions over flat arrays, in place.

A rule is called as rule(p, g, arrays, options, step, factor): parameters and gradients of one dimension,
the optimizer's own arrays by name, its options by name, the number of this step from 1, and a factor that
multiplies the gradient as it is read (a clip still to be applied, or -1 to maximize). Rules know neither
tensors nor ranks: the same function serves a whole parameter, many side by side, or a rank's share of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._typing import Array
from ..backend import of

__all__ = ["Rule", "adagrad", "adam", "apply", "rmsprop", "sgd"]

Rule = Callable[[Array, Array, Mapping[str, Array], Mapping[str, Any], int, float], None]


def sgd(p: Array, g: Array, arrays: Mapping[str, Array], options: Mapping[str, Any], step: int,
        factor: float) -> None:
    """p -= lr * d, with d = factor * g + weight_decay * p, through `momentum_buffer` if there is one."""
    of(p).kernels.sgd_(p, g, arrays.get("momentum_buffer"), float(options["lr"]), float(options["momentum"]),
                       float(options["dampening"]), float(options["weight_decay"]), bool(options["nesterov"]),
                       step == 1, factor)


def adam(p: Array, g: Array, arrays: Mapping[str, Array], options: Mapping[str, Any], step: int,
         factor: float) -> None:
    """p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps); m is `exp_avg`, v `exp_avg_sq`."""
    beta1, beta2 = options["betas"]
    of(p).kernels.adam_(p, g, arrays["exp_avg"], arrays["exp_avg_sq"], arrays.get("max_exp_avg_sq"),
                        float(options["lr"]), float(beta1), float(beta2), float(options["eps"]),
                        float(options["weight_decay"]), bool(options["decoupled_weight_decay"]), step, factor)


def _direction(p: Array, g: Array, options: Mapping[str, Any], factor: float) -> Array:
    """factor * g + weight_decay * p, in new memory."""
    d = g * factor
    if options["weight_decay"]:
        d += p * float(options["weight_decay"])
    return d


def adagrad(p: Array, g: Array, arrays: Mapping[str, Array], options: Mapping[str, Any], step: int,
            factor: float) -> None:
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


def rmsprop(p: Array, g: Array, arrays: Mapping[str, Array], options: Mapping[str, Any], step: int,
            factor: float) -> None:
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


def apply(rule: Rule, p: Array, g: Array, arrays: Mapping[str, Array], options: Mapping[str, Any], step: int,
          factor: float) -> None:
    """Run a rule on arrays of any shape and memory order, as one dimension in the order of p's memory.

    What cannot be seen so (a parameter that is a slice of something larger) is copied and written back.
    """
    order = None if p.flags.c_contiguous else tuple(sorted(range(p.ndim), key=lambda d: (-p.strides[d], d)))
    back: list[tuple[Array, Array]] = []

    def line(x: Array, written: bool) -> Array:
        y = x if order is None else x.transpose(order)
        flat = y.reshape(-1)  # a view where the memory allows it
        if written and not y.flags.c_contiguous:
            back.append((y, flat))
        return flat if flat.dtype.kind != "c" else flat.view(flat.real.dtype)  # complex: two real numbers

    rule(line(p, True), line(g, False), {name: line(x, True) for name, x in arrays.items()}, options, step, factor)
    for y, flat in back:
        y[...] = flat.reshape(y.shape)
