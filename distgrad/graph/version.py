"""Errors about in-place changes, and the rules for when one is allowed."""

from __future__ import annotations

from typing import Any

from .base import INFERENCE_VERSION
from .modes import GRAD, INFERENCE, state

__all__ = ["changed_error", "check_in_place", "inference_error"]


def changed_error(node: Any, position: int, now: int, then: int) -> RuntimeError:
    """A value saved for backward was changed in place: which, of which operation, which versions."""
    value = node.values[position]
    kind = "output" if position in dict(node.own) else "input"
    return RuntimeError(
        f"{node.name()} needs its saved {kind} of shape {tuple(value.shape)} and dtype {value.dtype}, but that was "
        f"changed in place: it is at version {now}, expected {then}. Use an out-of-place operation, or clone() the "
        "tensor before changing it; detect_anomaly() shows the line that saved it")


def inference_error(node: Any, value: Any) -> RuntimeError:
    """An inference tensor was to be saved."""
    return RuntimeError(f"{node.name()}: an inference tensor of shape {tuple(value.shape)} cannot be saved for "
                        "backward; clone() it outside inference_mode first")


def check_in_place(t: Any, name: str, live: bool) -> None:
    """Refuse an in-place operation that would make gradients wrong.

    Args:
        live: what is written depends on a tensor that requires grad.

    Raises:
        RuntimeError: a leaf that requires grad or a view of one, one output of several, a view made
            under no_grad, or an inference tensor outside inference mode.
    """
    placement = t.placement if t._view is None else t._view.base.placement  # not all memory can be made read-only
    if placement is not None and placement.read_only is not None:
        raise RuntimeError(f"{name}: {placement.read_only}")
    flags = state.flags
    if t.version is INFERENCE_VERSION and not flags & INFERENCE:
        raise RuntimeError(f"{name}: an inference tensor of shape {t.shape} cannot be changed in place outside "
                           "inference_mode; clone() it first")
    if not flags & GRAD or flags & INFERENCE:
        return
    if t._rg:
        raise RuntimeError(f"{name}: a leaf that requires grad (shape {t.shape}) cannot be changed in place while "
                           "operations are recorded; do it under no_grad(), or on a clone()")
    view = t._view
    if view is None:
        return
    base = view.base
    if base._rg:
        raise RuntimeError(f"{name}: a view (shape {t.shape}) of a leaf that requires grad (shape {base.shape}) "
                           "cannot be changed in place while operations are recorded")
    if base.fn is None and t.fn is None and not live:
        return
    if view.multi:
        raise RuntimeError(f"{name}: this tensor (shape {t.shape}) is one of several views that one operation "
                           "returned, and cannot be changed in place; use an out-of-place operation or clone() it")
    if not view.recorded:
        raise RuntimeError(f"{name}: this view (shape {t.shape}) was made under no_grad(), and its base or what is "
                           "written requires grad, so it cannot be changed in place while operations are recorded")
