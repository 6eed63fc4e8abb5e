"""Linear algebra by name: products, sums of products, and factorisations."""

from __future__ import annotations

from .decompose import cholesky, det, inv, logdet, qr, slogdet, solve
from .einsum import einsum, tensordot
from .products import (
                       addbmm,
                       addmm,
                       addmv,
                       addr,
                       baddbmm,
                       bmm,
                       chain_matmul,
                       cross,
                       dot,
                       inner,
                       kron,
                       matmul,
                       matrix_power,
                       mm,
                       multi_dot,
                       mv,
                       outer,
                       trace,
                       vdot,
)
from .spectral import eigh, eigvalsh, matrix_norm, pinv, svd, svdvals

__all__ = ["addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "cholesky", "cross", "det", "dot",
           "eigh", "eigvalsh", "einsum", "inner", "inv", "kron", "logdet", "matmul", "matrix_norm", "matrix_power",
           "mm", "multi_dot", "mv", "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot", "trace",
           "vdot"]
