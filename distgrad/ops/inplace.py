"""In-place operations: the same ops, written back into the tensor's memory.

A recorded one gives the tensor the history of the out-of-place result; every one counts the
storage's version up, so that a backward which needs the old values says so.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Any

from ..backend import of, when_several
from ..backend.dtypes import category
from ..graph.base import TensorBase, edge_of, wrap, zeros_as
from ..graph.dual import set_tangent, tangent_of, write_tangent
from ..graph.function import Function
from ..graph.guard import writable
from ..graph.modes import DUAL, GRAD, INFERENCE, state
from ..graph.places import beside
from ..graph.version import check_in_place
from ..graph.views import rebase, renew_views, set_history
from .cast import cast

__all__ = ["Overwrite", "in_place"]


class Overwrite(Function):
    """`new`, broadcast and cast, in place of `old`, which gets a gradient of zeros."""

    name = "Copy"

    def forward(ctx: Any, old: Any, new: Any) -> Any:
        out = of(old).xp.empty_like(old)
        out[...] = new.real if getattr(new, "dtype", old.dtype).kind == "c" and old.dtype.kind != "c" else new
        return out

    def vjp(ctx: Any, g: Any) -> Any:
        return zeros_as(g) if ctx.needs(0) else None, g


_copy = methodcaller("copy")


def _follow() -> None:
    """There are several devices of one kind: a copy lies on that of the array."""
    global _copy

    def copy(array: Any) -> Any:
        with beside((array,)):
            return array.copy()

    _copy = copy  # type: ignore[assignment]


when_several(_follow)


def in_place(name: str, x: Any, op: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Write `op(x, *args, **kwargs)` into x and return x.

    Raises:
        RuntimeError: x may not be changed in place now, or the result does not fit its shape or dtype.
    """
    live = state.flags & (GRAD | INFERENCE) == GRAD and \
        (edge_of(x) is not None or any(isinstance(a, TensorBase) and edge_of(a) is not None for a in args))
    check_in_place(x, name, live)
    # A rule may save its input, so the recorded op reads a copy; x itself is about to change.
    dual = state.flags & DUAL
    old = wrap(_copy(x.array), edge_of(x)) if live or dual else wrap(x.array)
    if dual:
        set_tangent(old, tangent_of(x))
    result = op(old, *args, **kwargs)
    if result.shape != x.shape:
        raise RuntimeError(f"{name}: the result has shape {tuple(result.shape)}, which does not fit in place into "
                           f"{tuple(x.shape)}")
    if result.dtype != x.dtype:
        if category(result.dtype) > category(x.dtype):
            raise RuntimeError(f"{name}: the result has dtype {result.dtype}, which cannot be stored into {x.dtype}")
        result = cast(result, x.dtype)
    with writable(x.array):
        try:
            x.array[...] = result.array
        except ValueError as error:  # numpy: "assignment destination is read-only"
            raise RuntimeError(f"{name}: the memory of this tensor (shape {tuple(x.shape)}) is read-only, or several "
                               "of its elements are one number in memory, as expand() makes them; clone() it first"
                               ) from error
    if live and x._view is not None:
        rebase(x, result)
    elif live:
        set_history(x, result.fn)
        renew_views(x)
    if dual:
        write_tangent(x, tangent_of(result))
    x.bump()
    return x
