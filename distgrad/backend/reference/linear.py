"""Products of matrices, and the affine map of a layer forward and backward.

Every product passes through the kernel `matmul`, which a backend overrides with its best BLAS; here it is the
array library's own. Results lie in memory row by row.
"""

from __future__ import annotations

from typing import Any

from ..base import of
from ._register import kernel

__all__ = ["linear", "linear_grad_input", "linear_grad_weight", "matmul"]


@kernel
def matmul(xp: Any, a: Any, b: Any, out: Any = None) -> Any:
    """a @ b for matrices (..., m, k) and (..., k, n), batches of which broadcast; into `out` if given."""
    if a.dtype.char != "e":
        return xp.matmul(a, b) if out is None else xp.matmul(a, b, out=out)
    y = xp.matmul(a.astype("float32"), b.astype("float32"))  # no BLAS multiplies float16
    if out is None:
        return y.astype(a.dtype)
    out[...] = y
    return out


def _rows(x: Any) -> Any:
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


@kernel
def linear(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias for x (..., in), weight (out, in), bias (out,) or None."""
    y = of(x).kernels.matmul(_rows(x), weight.T)
    if bias is not None:
        xp.add(y, bias, out=y)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[0])


@kernel
def linear_grad_input(xp: Any, g: Any, weight: Any) -> Any:
    """g @ weight for g (..., out)."""
    gx = of(g).kernels.matmul(_rows(g), weight)
    return gx if g.ndim == 2 else gx.reshape(*g.shape[:-1], weight.shape[1])


@kernel
def linear_grad_weight(xp: Any, g: Any, x: Any, out: Any = None) -> Any:
    """g.T @ x over all rows: (out, in), in the weight's own memory order; into `out` if given."""
    return of(g).kernels.matmul(_rows(g).T, _rows(x), out)
