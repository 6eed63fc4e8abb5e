"""Products of few rows by numpy's OpenBLAS on processors with AVX-512: computed turned over, returned as asked for.

[Note: weights on the left] Its kernels for AVX-512 take up to twice as long on x @ W.T with a small batch as on
W @ x.T, the same product turned over: the long side should be the rows. The result is copied back into the usual
order, which costs far less than that, so that nobody meets an unusual one. Its other kernels show no difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference import find

__all__ = ["FEW", "matmul"]

FEW = 128  # rows up to which it pays
_SMALL = 1 << 18  # multiplications up to which a product is over before the order matters
_straight = find("matmul")


def matmul(a: Any, b: Any, out: Any = None) -> Any:
    """a @ b, as the reference."""
    if a.ndim != 2 or b.ndim != 2 or not 1 < a.shape[0] <= FEW or a.shape[0] >= b.shape[1] \
            or a.size * b.shape[1] < _SMALL:
        return _straight(np, a, b, out)
    turned = _straight(np, b.T, a.T).T
    if out is None:
        return np.ascontiguousarray(turned)
    np.copyto(out, turned)
    return out
