"""What hooks have in common: the mark of those that act between nodes, and complex numbers as real ones."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from ..._typing import Array
from ..bucket import Hook

__all__ = ["acts_between_nodes", "as_real", "between_nodes"]

H = TypeVar("H", bound=Any)


def between_nodes(hook: H) -> H:
    """Declare that a hook is about what crosses the network: `@between_nodes`, or an attribute of that name.

    Inside a node, sums are then taken in shared memory as without a hook. `bucket.send` is this node's
    undivided sum of a part of the bucket, and `comm` joins one rank of each node. On a single node the hook
    is not called. Other hooks get every rank's own gradients, and all ranks.
    """
    hook.between_nodes = True
    return hook


def acts_between_nodes(hook: Hook) -> bool:
    """Whether a hook was declared so, or the function of which it is a partial."""
    if isinstance(hook, partial) and not hasattr(hook, "between_nodes"):
        return acts_between_nodes(hook.func)
    return bool(getattr(hook, "between_nodes", False))


def as_real(flat: Array) -> Array:
    """The same memory, complex numbers as the two real ones of which they consist."""
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat
