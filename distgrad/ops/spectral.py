"""Singular values, eigenvalues, and what is made of them: the pseudoinverse and norms of matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._arguments import raw, take_dims
from ._composite import composite_vjp
from .cast import cast
from .decompose import adjoint, check_matrices, computed
from .extremum import amax, amin
from .moments import vector_norm
from .pointwise import abs as absolute
from .products import matmul
from .rearrange import diag_embed, tril, triu
from .sums import sum as total
from .views import movedim, narrow, squeeze, unsqueeze

__all__ = ["Eigh", "EighResult", "Pinv", "SVD", "SVDResult", "eigh", "eigvalsh", "matrix_norm", "pinv", "svd",
           "svdvals"]


class SVDResult(NamedTuple):
    """Left singular vectors, singular values (falling), right singular vectors as rows."""

    U: Any
    S: Any
    Vh: Any


class EighResult(NamedTuple):
    """Eigenvalues (rising), and eigenvectors as columns."""

    eigenvalues: Any
    eigenvectors: Any


def _gaps(values: Any) -> Any:
    """values[j] - values[i] at (i, j), and 1 on the diagonal."""
    xp = of(raw(values)).xp
    return unsqueeze(values, -2) - unsqueeze(values, -1) + xp.eye(values.shape[-1], dtype=values.dtype)


def _off_diagonal(x: Any) -> Any:
    return tril(x, -1) + triu(x, 1)


def _diagonal(values: Any, vectors: Any) -> Any:
    """Real values on the diagonals of matrices that multiply with `vectors`."""
    return diag_embed(values if values.dtype == vectors.dtype else cast(values, vectors.dtype))


class SVD(Function):
    """Singular values and vectors."""

    name = "LinalgSvd"

    def forward(ctx: Any, x: Any, full: bool) -> Any:
        ctx.full = full
        u, s, vh = computed("svd", of(x).xp.linalg.svd, x, full_matrices=full)
        ctx.save(u, s, vh, x if full else None)
        return u, s, vh

    def vjp(ctx: Any, g: Any) -> Any:
        u, s, vh, x = ctx.saved
        gu, gs, gvh = g
        m, n, k = u.shape[-2], vh.shape[-1], s.shape[-1]
        if ctx.full and m != n:
            if gu is not None or gvh is not None:
                raise RuntimeError(f"svd: with full_matrices=True only the singular values of matrices {m} x {n} have "
                                   "a gradient; use full_matrices=False")
            if isinstance(gs, TensorBase):  # the gradient shall not depend on vectors that have none
                return composite_vjp(lambda x: SVD.apply(x, full=False)[1], (x,), gs)
            u, vh = narrow(u, -1, 0, k), narrow(vh, -2, 0, k)
        scale = unsqueeze(s, -2)
        inside = 0 if gs is None else _diagonal(gs, u)
        if gu is not None or gvh is not None:
            gaps = unsqueeze(s * s, -2) - unsqueeze(s * s, -1)
            gaps = gaps + of(raw(s)).xp.eye(k, dtype=s.dtype)
        if gu is not None:
            turn = matmul(adjoint(u), gu)
            inside = inside + _off_diagonal(turn - adjoint(turn)) / gaps * scale
        if gvh is not None:
            turn = matmul(vh, adjoint(gvh))
            inside = inside + unsqueeze(s, -1) * (_off_diagonal(turn - adjoint(turn)) / gaps)
        if gu is not None and gvh is not None and u.dtype.kind == "c":  # the phases that u and vh share
            turn = matmul(adjoint(u), gu)
            turn = turn - adjoint(turn)
            inside = inside + (turn - _off_diagonal(turn)) / (2 * scale)
        gx = matmul(matmul(u, inside), vh)
        if gu is not None and m > k:
            outside = gu - matmul(u, matmul(adjoint(u), gu))
            gx = gx + matmul(outside / scale, vh)
        if gvh is not None and n > k:
            outside = gvh - matmul(matmul(gvh, adjoint(vh)), vh)
            gx = gx + matmul(u / scale, outside)
        return gx


class Eigh(Function):
    """Eigenvalues and eigenvectors of symmetric (Hermitian) matrices."""

    name = "LinalgEigh"

    def forward(ctx: Any, x: Any, lower: bool) -> Any:
        values, vectors = computed("eigh", of(x).xp.linalg.eigh, x, UPLO="L" if lower else "U")
        ctx.save(values, vectors)
        return values, vectors

    def vjp(ctx: Any, g: Any) -> Any:
        values, vectors = ctx.saved
        gl, gv = g
        inside = 0 if gl is None else _diagonal(gl, vectors)
        if gv is not None:
            inside = inside + _off_diagonal(matmul(adjoint(vectors), gv)) / _gaps(values)
        return matmul(matmul(vectors, inside), adjoint(vectors))


class Pinv(Function):
    """Pseudoinverses; the gradient (Golub and Pereyra, 1973) holds while the rank stays."""

    name = "LinalgPinv"

    def forward(ctx: Any, x: Any, rtol: float) -> Any:
        y = computed("pinv", of(x).xp.linalg.pinv, x, rtol)
        ctx.save(x, y)
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        yh, gh = adjoint(y), adjoint(g)
        outside = matmul(gh, matmul(y, yh))
        inside = matmul(matmul(yh, y), gh)
        return outside - matmul(x, matmul(y, outside)) + inside - matmul(matmul(inside, y), x) \
            - matmul(yh, matmul(g, yh))


def svd(x: Any, full_matrices: bool = True) -> SVDResult:
    """U, S, Vh with x = U @ diag(S) @ Vh, S falling.

    Gradients of U and Vh need distinct singular values; that of S does not.
    """
    check_matrices("svd", x)
    return SVDResult(*SVD.apply(x, full=full_matrices))


def svdvals(x: Any) -> Any:
    """The singular values, falling."""
    return svd(x, False).S


def eigh(x: Any, UPLO: str = "L") -> EighResult:
    """Eigenvalues (rising) and eigenvectors of symmetric or Hermitian matrices.

    Gradients of eigenvectors need distinct eigenvalues; those of eigenvalues do not.

    Args:
        UPLO: 'L' or 'U', the triangle that is read.

    Raises:
        RuntimeError: another UPLO.
    """
    check_matrices("eigh", x, True)
    if UPLO.upper() not in ("L", "U"):
        raise RuntimeError(f"eigh: UPLO is 'L' or 'U', got {UPLO!r}")
    return EighResult(*Eigh.apply(x, lower=UPLO.upper() == "L"))


def eigvalsh(x: Any, UPLO: str = "L") -> Any:
    """The eigenvalues of symmetric or Hermitian matrices, rising."""
    return eigh(x, UPLO).eigenvalues


def pinv(x: Any, rtol: float | None = None) -> Any:
    """The pseudoinverse, from the singular values above rtol times the largest.

    Args:
        rtol: max(m, n) times the dtype's epsilon when None.
    """
    check_matrices("pinv", x)
    limit = max(x.shape[-2:]) * float(of(raw(x)).xp.finfo(x.dtype).eps) if rtol is None else rtol
    return Pinv.apply(x, rtol=limit)


def matrix_norm(x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False) -> Any:
    """The norm of matrices in two dimensions.

    Args:
        ord: 'fro' (all elements), 'nuc' (sum of singular values), 2 and -2 (largest and smallest singular value),
            1 and -1 (of column sums), inf and -inf (of row sums).

    Raises:
        RuntimeError: another `ord`, or not two dimensions.
    """
    if len(x.shape) < 2:
        raise RuntimeError(f"matrix_norm: needs at least 2 dimensions, got shape {tuple(x.shape)}")
    rows, columns = take_dims("matrix_norm", tuple(dim), len(x.shape)) if len(dim) == 2 else (None, None)
    if rows is None:
        raise RuntimeError(f"matrix_norm: takes two dims, got {dim!r}")
    if ord == "fro":
        return vector_norm(x, 2, (rows, columns), keepdim)
    if ord in ("nuc", 2, -2):
        s = svdvals(movedim(x, (rows, columns), (-2, -1)))
        out = total(s, -1) if ord == "nuc" else amax(s, -1) if ord == 2 else amin(s, -1)
        if keepdim:
            for at in sorted((rows, columns)):
                out = unsqueeze(out, at)
        return out
    if ord in (1, -1, float("inf"), float("-inf")):
        over, chosen = (rows, columns) if ord in (1, -1) else (columns, rows)
        sums = total(absolute(x), over, True)
        out = (amax if ord > 0 else amin)(sums, chosen, True)
        return out if keepdim else squeeze(out, (rows, columns))
    raise RuntimeError(f"matrix_norm: ord is 'fro', 'nuc', 1, 2, inf or the negative of one, got {ord!r}")
