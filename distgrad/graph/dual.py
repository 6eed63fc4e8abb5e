"""Forward mode: tensors that carry a tangent, and how an operation hands tangents on.

No operation has a second rule for it. A vjp is linear in its cotangent u; differentiating it by u and
contracting with the tangents gives the jvp, and what comes out is recorded like anything else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..backend import of
from .base import TensorBase, edge_of, wrap
from .engine import run_backward
from .modes import DUAL, GRAD, INFERENCE, state

__all__ = ["apply", "current_level", "enter_level", "exit_level", "set_tangent", "tangent_of", "write_tangent"]


class _Thread(threading.local):
    level: int | None = None
    entered: int = 0


_thread = _Thread()


def enter_level() -> int:
    """Begin to carry tangents on this thread.

    Raises:
        RuntimeError: a level is open already; one at a time is supported.
    """
    if _thread.level is not None:
        raise RuntimeError("forward mode: a dual level is open already, and levels do not nest")
    _thread.entered += 1
    _thread.level = _thread.entered
    state.flags |= DUAL
    return _thread.level


def exit_level(level: int | None = None) -> None:
    """End the level; its tangents are forgotten.

    Raises:
        RuntimeError: no level is open, or another one.
    """
    if _thread.level is None or (level is not None and level != _thread.level):
        raise RuntimeError(f"forward mode: level {level} is not open")
    _thread.level = None
    state.flags &= ~DUAL


def current_level(level: int | None = None) -> int:
    """The open level.

    Raises:
        RuntimeError: none is open, or `level` is another one.
    """
    if _thread.level is None or (level is not None and level != _thread.level):
        raise RuntimeError("forward mode: dual tensors exist only inside dual_level()")
    return _thread.level


def tangent_of(t: Any) -> Any:
    """The tangent that a tensor carries at the open level, or None."""
    found = t.__dict__.get("_tangent")
    return found[1] if found is not None and found[0] == _thread.level else None


def set_tangent(t: Any, tangent: Any) -> None:
    """Let a tensor carry a tangent (None: none)."""
    if tangent is None:
        t.__dict__.pop("_tangent", None)
    else:
        t.__dict__["_tangent"] = (_thread.level, tangent)


def write_tangent(t: Any, tangent: Any) -> None:
    """An in-place operation gave `t` this tangent.

    Raises:
        RuntimeError: `t` is a view, whose base would have to get it too.
    """
    if t._view is not None and (tangent is not None or tangent_of(t._view.base) is not None):
        raise RuntimeError("forward mode: an in-place write into a view of a dual tensor is not supported; use the "
                           "out-of-place operation")
    set_tangent(t, tangent)


def apply(op: Callable[..., Any], inputs: tuple[Any, ...], constants: dict[str, Any]) -> Any:
    """Run one operation, and give its results the tangents that follow from those of the inputs."""
    flags = state.flags
    state.flags = flags & ~DUAL
    try:
        made = op(*inputs, **constants)
        tangents = {i: tangent for i, x in enumerate(inputs)
                    if isinstance(x, TensorBase) and (tangent := tangent_of(x)) is not None}
        if tangents:
            results = made if isinstance(made, tuple) else (made,)
            for result, tangent in zip(results, _push(op, inputs, constants, tangents, flags), strict=True):
                set_tangent(result, tangent)
        return made
    finally:
        state.flags = flags


def _push(op: Callable[..., Any], inputs: tuple[Any, ...], constants: dict[str, Any], tangents: dict[int, Any],
          flags: int) -> list[Any]:
    """The tangents of the results: the derivative by u of vjp(u), contracted with the inputs' tangents."""
    from .function import alias

    state.flags = (flags & ~(DUAL | INFERENCE)) | GRAD
    shadows = list(inputs)
    for i in tangents:
        x = inputs[i]
        if edge_of(x) is not None and flags & GRAD:
            shadows[i] = alias(x)
        else:
            leaf = wrap(x.array)
            leaf._rg = True
            shadows[i] = leaf
    out = op(*shadows, **constants)
    outs = list(out) if isinstance(out, tuple) else [out]
    live = [y for y in outs if isinstance(y, TensorBase) and y.fn is not None]
    found: list[Any] = [None] * len(outs)
    if not live:
        return found
    sinks = [edge_of(shadows[i]) for i in tangents]
    for position, y in enumerate(outs):
        if not any(y is x for x in live):
            continue
        u = wrap(of(y.array).xp.zeros_like(y.array))
        u._rg = True
        gx = run_backward([y.fn], [u], retain_graph=True, create_graph=True, captured=sinks, closed=True)
        pairs = [(g, t) for g, t in zip(gx, tangents.values(), strict=True) if g is not None and edge_of(g) is not None]
        recorded = bool(flags & GRAD)
        if pairs:
            result = run_backward([edge_of(g) for g, _ in pairs], [t if recorded else t.array for _, t in pairs],
                                  retain_graph=True, create_graph=recorded, captured=[u])[0]
            found[position] = result if result is None or isinstance(result, TensorBase) else wrap(result)
    return found
