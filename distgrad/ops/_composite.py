"""Second derivatives of fused ops: the gradient of the same function written in plain ops.

A fused op has a kernel pair, forward and backward, for first-order passes. Under create_graph its
vjp asks `composite_vjp` for the recorded gradient of its formula, so no second derivative is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..graph.base import TensorBase
from ..graph.engine import run_backward
from ..graph.function import alias

__all__ = ["composite_vjp"]


def composite_vjp(formula: Callable[..., Any], inputs: tuple[Any, ...], g: Any) -> tuple[Any, ...]:
    """Gradients of `formula(*inputs)` for the cotangent(s) g, recorded.

    Args:
        formula: the op in plain ops; returns one tensor or a tuple of them.
        inputs: the saved inputs as tensors, None where the op had none.
        g: the cotangent, or a list of them (None for outputs without one).

    Returns:
        One gradient for each input, None where it does not require grad.
    """
    fresh = [alias(x) if isinstance(x, TensorBase) else x for x in inputs]
    live = [i for i, x in enumerate(fresh) if isinstance(x, TensorBase) and x.fn is not None]
    out = formula(*fresh)
    outs, gs = (out, g) if isinstance(out, tuple) else ((out,), (g,))
    pairs = [(y.fn, gy) for y, gy in zip(outs, gs, strict=True) if gy is not None and y.fn is not None]
    found = run_backward([fn for fn, _ in pairs], [gy for _, gy in pairs], retain_graph=True, create_graph=True,
                         captured=[fresh[i].fn for i in live], closed=True)
    result: list[Any] = [None] * len(inputs)
    for i, gx in zip(live, found, strict=True):
        result[i] = gx
    return tuple(result)
