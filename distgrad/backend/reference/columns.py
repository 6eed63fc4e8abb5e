"""Sums over leading dimensions: what the gradient of something broadcast comes to."""

from __future__ import annotations

from typing import Any

from ._register import kernel
from ._wide import wide

__all__ = ["sum_leading"]


@kernel
def sum_leading(xp: Any, x: Any, count: int) -> Any:
    """The sum over the first `count` dimensions, in x's dtype."""
    return wide(x).sum(axis=tuple(range(count))).astype(x.dtype, copy=False)
