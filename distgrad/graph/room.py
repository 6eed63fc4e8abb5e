"""Where a gradient may be computed: in the memory in which it is going to stay, if nobody can see the difference.

A rule that can write its result anywhere asks here; the copy that `accumulate_grad` would make is then saved.
"""

from __future__ import annotations

from typing import Any

from .._typing import Array
from .base import LEAF
from .engine import current_run

__all__ = ["room_for"]


def room_for(node: Any, edge: Any) -> Array | None:
    """Memory for what the rule of `node`, which runs now, passes on along `edge`; None where it needs its own.

    A sum of several gradients is made before it is accumulated, and what hooks get is theirs to keep: so the leaf gets
    no other gradient in this backward, and has no hooks that are given it.
    """
    if edge.kind is not LEAF or edge.placement is None or node.hooks is not None:
        return None
    run = current_run()
    if run is None or run.accumulate is not None or run.leaves.get(edge) != 1 or edge in run.pending:
        return None
    hooks = edge.hooks
    if hooks is not None and (hooks.tensor or hooks.pre or hooks.post):
        return None
    found: Array | None = edge.placement.room(edge)
    return found
