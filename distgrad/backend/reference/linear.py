"""The affine map of a layer, forward and backward, with the gemm's orientation chosen by shape.

[Note: weights on the left] BLAS libraries are up to twice as fast on W @ x.T as on x @ W.T when the
batch is small: the long side should be the rows of the product. The result is then a transposed view.
"""

from __future__ import annotations

from typing import Any

from ._register import kernel

__all__ = ["SMALL_BATCH", "linear", "linear_grad_input", "linear_grad_weight"]

SMALL_BATCH = 128  # rows of x up to which the weights stand on the left


def _product(xp: Any, rows: Any, matrix: Any) -> Any:
    """rows @ matrix, computed as (matrix.T @ rows.T).T for few rows."""
    if rows.shape[0] <= SMALL_BATCH and rows.shape[0] < matrix.shape[1]:
        return xp.matmul(matrix.T, rows.T).T
    return xp.matmul(rows, matrix)


@kernel
def linear(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias for x (..., in), weight (out, in), bias (out,) or None."""
    y = _product(xp, x.reshape(-1, x.shape[-1]), weight.T)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


@kernel
def linear_grad_input(xp: Any, g: Any, weight: Any) -> Any:
    """g @ weight for g (..., out)."""
    return _product(xp, g.reshape(-1, g.shape[-1]), weight).reshape(*g.shape[:-1], weight.shape[1])


@kernel
def linear_grad_weight(xp: Any, g: Any, x: Any) -> Any:
    """g.T @ x over all rows: (out, in), in the weight's own memory order."""
    return xp.matmul(g.reshape(-1, g.shape[-1]).T, x.reshape(-1, x.shape[-1]))
