"""Sums over leading dimensions: what the gradient of something broadcast comes to."""

from __future__ import annotations

from typing import Any

from ._register import kernel
from ._wide import wide

__all__ = ["sum_leading"]


@kernel
def sum_leading(xp: Any, x: Any, count: int) -> Any:
    """The sum over the first `count` dimensions, in x's dtype."""
    total = wide(x).sum(axis=0 if count == 1 else tuple(range(count)))
    return total if total.dtype == x.dtype else total.astype(x.dtype)
