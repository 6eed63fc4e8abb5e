"""A cuBLAS for the stand-in: products of matrices that are given by addresses and lie column by column, by numpy."""

from __future__ import annotations

import ctypes
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["handle_of", "install"]

_KINDS = {2: (np.float16, np.float32, (68,)), 0: (np.float32, np.float32, (68, 77)), 1: (np.float64, np.float64, (70,))}


_queue: dict[str, Any] = {}  # how to ask for the current device, and to do what was queued before


def handle_of(device: int) -> int:
    """The handle for a device."""
    return 0xB1A5 + device


def _matrix(address: int, kind: Any, rows: int, columns: int, leading: int) -> np.ndarray:
    """(rows, columns) of a matrix that lies column by column, with `leading` elements from one to the next."""
    assert leading >= max(1, rows), f"leading dimension {leading} of a matrix with {rows} rows"
    size = np.dtype(kind).itemsize
    memory = (ctypes.c_char * (((columns - 1) * leading + rows) * size)).from_address(address)
    return np.ndarray((rows, columns), kind, memory, 0, (size, leading * size))


def _scalar(address: int, kind: Any) -> Any:
    return np.ndarray((), kind, (ctypes.c_char * np.dtype(kind).itemsize).from_address(address)).item()


def gemmEx(handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
           B: int, Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int) -> None:
    """c (m, n) = alpha * a b + beta * c, where transa and transb say that the factor lies transposed."""
    kind, wide, computes = _KINDS[Atype]
    assert handle == handle_of(_queue["device"]()), "a handle of another device"
    _queue["run"]()
    assert Atype == Btype == Ctype and computeType in computes and algo == -1
    assert min(m, n, k) > 0
    a = _matrix(A, kind, k, m, lda).T if transa else _matrix(A, kind, m, k, lda)
    b = _matrix(B, kind, n, k, ldb).T if transb else _matrix(B, kind, k, n, ldb)
    c = _matrix(C, kind, m, n, ldc)
    found = _scalar(alpha, wide) * (a.astype(wide) @ b.astype(wide))
    kept = _scalar(beta, wide)
    c[...] = found + kept * c if kept else found  # with beta = 0, what c holds is not read


def gemmStridedBatchedEx(handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int,
                         lda: int, strideA: int, B: int, Btype: int, ldb: int, strideB: int, beta: int, C: int,
                         Ctype: int, ldc: int, strideC: int, batchCount: int, computeType: int, algo: int) -> None:
    """One product after the other, of matrices that lie so many elements apart."""
    size = np.dtype(_KINDS[Atype][0]).itemsize
    for i in range(batchCount):
        gemmEx(handle, transa, transb, m, n, k, alpha, A + i * strideA * size, Atype, lda, B + i * strideB * size,
               Btype, ldb, beta, C + i * strideC * size, Ctype, ldc, computeType, algo)


def install(device: Any, run: Any) -> None:
    """Put it where `from cupy_backends.cuda.libs import cublas` finds it, with cuBLAS' numbers."""
    _queue.update(device=device, run=run)
    module: Any = None
    for name in ("cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.libs", "cupy_backends.cuda.libs.cublas"):
        above, module = module, ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module
        if above is not None:
            setattr(above, name.rpartition(".")[2], module)
    for function in (gemmEx, gemmStridedBatchedEx):
        setattr(module, function.__name__, function)
    module.CUBLAS_COMPUTE_32F, module.CUBLAS_COMPUTE_32F_FAST_TF32, module.CUBLAS_COMPUTE_64F = 68, 77, 70
    module.CUBLAS_GEMM_DEFAULT = -1
