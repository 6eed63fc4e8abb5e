"""Products of matrices by cuBLAS, called so that nothing is copied that cuBLAS can read as it lies.

A transposed view becomes a flag, a batch that lies in equal steps one strided call, a factor `alpha`, and what is
added to becomes `beta`. cupy's own matmul would copy every batch that is not whole. TF32 follows the configuration.

[Note: rows and columns] cuBLAS counts matrices by columns. Read so, an array that lies row by row is its transpose:
c = a b is asked for as c^T = b^T a^T, with the operands exchanged and no array turned.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas

from ....config import config
from .launch import fits, over_rows, plain

__all__ = ["Product", "linear", "matmul", "multiply", "packed"]

_LARGEST = (1 << 31) - 1  # cuBLAS counts in 32 bits
_FULL = cublas.CUBLAS_COMPUTE_32F
_SINGLE = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if config.tf32 else _FULL
_KINDS = {  # how the elements lie, how sums are taken, the type of factors
    np.dtype("float16"): (cupy.cuda.runtime.CUDA_R_16F, _FULL, "float32"),
    np.dtype("float32"): (cupy.cuda.runtime.CUDA_R_32F, _SINGLE, "float32"),
    np.dtype("float64"): (cupy.cuda.runtime.CUDA_R_64F, cublas.CUBLAS_COMPUTE_64F, "float64"),
}


@cache
def _factor(value: float, kind: str) -> tuple[int, np.ndarray]:
    """A factor in memory of the host, where cuBLAS reads it during the call: (address, what keeps it there)."""
    held = np.array(value, kind)
    return held.ctypes.data, held


class Product:
    """c (m, n) = a (m, k) @ b (k, n), or c += a @ b, for matrices that lie alike: prepared once, called by addresses.

    Args:
        a, b: (whether it lies column by column, elements from one row, or column, to the next).
        row: elements from one row of c to the next.
        add: c keeps what it holds, and gets the product added.
    """

    def __init__(self, dtype: Any, m: int, n: int, k: int, a: tuple[bool, int], b: tuple[bool, int], row: int,
                 add: bool = False, alpha: float = 1.0) -> None:
        kind, compute, scalar = _KINDS[np.dtype(dtype)]
        self._handle = cupy.cuda.device.get_cublas_handle()  # of this thread and the current device
        self._sizes = int(b[0]), int(a[0]), n, m, k, _factor(alpha, scalar)[0]
        self._a, self._b, self._c = (kind, a[1]), (kind, b[1]), (kind, row)
        self._beta, self._how = _factor(float(add), scalar)[0], (compute, cublas.CUBLAS_GEMM_DEFAULT)

    def __call__(self, a: int, b: int, c: int) -> None:
        """The product of the matrices that lie at these addresses."""
        cublas.gemmEx(self._handle, *self._sizes, b, *self._b, a, *self._a, self._beta, c, *self._c, *self._how)

    def batch(self, count: int, a: int, a_step: int, b: int, b_step: int, c: int, c_step: int) -> None:
        """`count` products, of matrices that lie so many elements apart."""
        cublas.gemmStridedBatchedEx(self._handle, *self._sizes, b, *self._b, b_step, a, *self._a, a_step, self._beta,
                                    c, *self._c, c_step, count, *self._how)


def _lies(x: Any) -> tuple[bool, int] | None:
    """How each matrix of x (..., rows, columns) lies, as `Product` takes it; None where neither way is whole."""
    rows, columns = x.shape[-2:]
    size, strides = x.itemsize, x.strides
    down, along = strides[-2] // size, strides[-1] // size
    if (columns == 1 or along == 1) and (rows == 1 or down >= columns):
        return False, max(down if rows > 1 else columns, 1)
    if (rows == 1 or down == 1) and (columns == 1 or along >= rows):
        return True, max(along if columns > 1 else rows, 1)
    return None


def _step(x: Any) -> int | None:
    """Elements from one matrix of x (..., rows, columns) to the next; None where steps differ."""
    if x.ndim == 2:
        return 0
    step, reach = 0, -1
    for size, stride in zip(x.shape[-3::-1], x.strides[-3::-1], strict=True):
        if size == 1:
            continue
        if reach < 0:
            step = stride
        elif stride != reach:
            return None
        reach = stride * size
    return step // x.itemsize


def _operand(x: Any) -> tuple[Any, tuple[bool, int], int]:
    """x, or a copy where it cannot be read as it lies; how each matrix lies, and elements from one to the next."""
    lies, step = _lies(x), _step(x)
    if lies is not None and step is not None:
        return x, lies, step
    x = cupy.ascontiguousarray(x)
    return x, (False, max(x.shape[-1], 1)), x.shape[-2] * x.shape[-1]


def packed(x: Any) -> Any:
    """x as `multiply` reads it without a copy: itself where it can, so that several products share one copy."""
    return _operand(x)[0]


def multiply(a: Any, b: Any, out: Any = None, alpha: float = 1.0, add: bool = False) -> Any:
    """alpha * a @ b for batches that broadcast, into `out`, which lies row by row, or added to it."""
    (m, k), n = a.shape[-2:], b.shape[-1]
    front = a.shape[:-2]
    if front != b.shape[:-2]:
        front = np.broadcast_shapes(front, b.shape[:-2])
        a, b = cupy.broadcast_to(a, (*front, m, k)), cupy.broadcast_to(b, (*front, k, n))
    if out is None:
        out = cupy.empty((*front, m, n), a.dtype)
    if not out.size:
        return out
    if not k:
        if not add:
            out.fill(0)
        return out
    (a, a_lies, a_step), (b, b_lies, b_step) = _operand(a), _operand(b)
    product = Product(a.dtype, m, n, k, a_lies, b_lies, n, add, alpha)
    count = out.size // (m * n)
    if count == 1:
        product(a.data.ptr, b.data.ptr, out.data.ptr)
    else:
        product.batch(count, a.data.ptr, a_step, b.data.ptr, b_step, out.data.ptr, m * n)
    return out


def matmul(a: Any, b: Any, out: Any = None) -> Any:
    if a.dtype not in _KINDS or a.dtype != b.dtype or min(a.ndim, b.ndim) < 2 or a.shape[-1] != b.shape[-2] or \
            max(a.size, b.size, a.shape[-2] * b.shape[-1]) > _LARGEST:
        return plain("matmul", a)(a, b, out)
    if out is None or (out.flags.c_contiguous and out.dtype == a.dtype):
        return multiply(a, b, out)
    out[...] = multiply(a, b)
    return out


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """As the reference; the bias is laid out first, and the product added to it, which reads nothing twice."""
    if bias is None or not fits(weight, bias) or x.dtype != weight.dtype or not weight.size:
        return plain("linear", x)(x, weight, bias)
    outputs, inputs = weight.shape
    rows = x.reshape(-1, inputs)
    y = cupy.empty((rows.shape[0], outputs), x.dtype)
    over_rows("repeat", x.dtype, rows.shape[0], outputs, bias, y, outputs)
    return multiply(rows, weight.T, y, add=True).reshape(*x.shape[:-1], outputs)
