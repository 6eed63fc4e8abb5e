"""Forgetting gradients: what `zero_grad` of modules and of optimizers does to each parameter."""

from __future__ import annotations

from typing import Any

from ..graph.modes import no_grad

__all__ = ["clear_grad"]


def clear_grad(parameter: Any, set_to_none: bool) -> None:
    """Set `parameter.grad` to None, or to zero in place; one that belongs to a graph is cut from it first."""
    grad = parameter._grad
    if grad is None:
        return
    if set_to_none:
        parameter.grad = None
        return
    if parameter.placement is not None and parameter.placement.leaf_grad_is_home():
        parameter.placement.zero()
        return
    if grad.fn is not None:
        parameter.grad = grad = grad.detach()
    with no_grad():
        grad.zero_()
