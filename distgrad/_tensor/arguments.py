"""How methods read shapes: `x.reshape(2, 3)` and `x.reshape((2, 3))` mean the same."""

from __future__ import annotations

from typing import Any

__all__ = ["is_shape", "sizes"]


def sizes(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence, as ints."""
    if len(args) == 1 and not hasattr(args[0], "__index__"):
        args = tuple(args[0])
    return tuple(int(n) for n in args)


def is_shape(args: tuple[Any, ...]) -> bool:
    """Whether the arguments of `view` are sizes, rather than a dtype."""
    return len(args) != 1 or hasattr(args[0], "__index__") or isinstance(args[0], (tuple, list))
