"""What the ops of neural networks ask of their arguments: element types, reductions, pairs of sizes.

torch's exception types, our messages.
"""

from __future__ import annotations

from operator import index as as_index
from typing import Any

__all__ = ["check_floating", "check_reduction", "check_same_dtype", "pair"]


def check_floating(name: str, x: Any) -> None:
    """Raises NotImplementedError unless x has a real floating dtype."""
    if x.dtype.kind != "f":
        raise NotImplementedError(f"{name}: works on floating tensors, got {x.dtype}; convert with .to(float32)")


def check_same_dtype(name: str, x: Any, **others: Any) -> None:
    """Raises RuntimeError unless all others (None passes) have the dtype of x."""
    for what, other in others.items():
        if other is not None and other.dtype != x.dtype:
            raise RuntimeError(f"{name}: the input is {x.dtype}, but {what} is {other.dtype}; bring them to one dtype")


def check_reduction(name: str, reduction: str, *more: str) -> None:
    """Raises ValueError unless `reduction` is 'none', 'mean', 'sum' or one of `more`."""
    allowed = ("none", "mean", "sum", *more)
    if reduction not in allowed:
        raise ValueError(f"{name}: reduction is one of {', '.join(allowed)}, got {reduction!r}")


def pair(name: str, what: str, value: Any, least: int = 0) -> tuple[int, int]:
    """One integer for both directions, or two of them.

    Raises:
        TypeError: not integers.
        RuntimeError: more than two, or one below `least`.
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    try:
        found = tuple([as_index(v) for v in values])
    except TypeError:
        raise TypeError(f"{name}: {what} is an integer or two of them, got {value!r}") from None
    if len(found) == 1:
        found *= 2
    if len(found) != 2 or min(found) < least:
        raise RuntimeError(f"{name}: {what} is one or two integers of at least {least}, got {value!r}")
    return found
