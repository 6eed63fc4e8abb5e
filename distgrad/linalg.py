"""torch.linalg's names over the operations of `ops.linalg`. Layer 5; nothing is computed here."""

from __future__ import annotations

from .ops.linalg import (
                         cholesky,
                         cross,
                         det,
                         eigh,
                         eigvalsh,
                         inv,
                         matmul,
                         matrix_norm,
                         matrix_power,
                         multi_dot,
                         pinv,
                         qr,
                         slogdet,
                         solve,
                         svd,
                         svdvals,
)
from .ops.reduce import norm, vector_norm

__all__ = ["cholesky", "cross", "det", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm", "matrix_power", "multi_dot",
           "norm", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "vector_norm"]
