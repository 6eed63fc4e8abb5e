"""Determinants, inverses, equations and factorisations of (batches of) matrices.

Gradients are written with products and solves, so that they can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._arguments import plain, raw
from ._declare import conj
from .cumulative import product_of_others
from .join import cat
from .pointwise import log
from .products import matmul
from .rearrange import tril
from .views import mT, narrow, squeeze, unsqueeze

__all__ = ["Cholesky", "Det", "Inv", "QR", "QRResult", "Slogdet", "SlogdetResult", "Solve", "adjoint", "check_matrices",
           "cholesky", "computed", "det", "inv", "logdet", "qr", "slogdet", "solve"]


class SlogdetResult(NamedTuple):
    """The sign of a determinant and the logarithm of its absolute value."""

    sign: Any
    logabsdet: Any


class QRResult(NamedTuple):
    """Orthonormal columns and an upper triangle."""

    Q: Any
    R: Any


def adjoint(x: Any) -> Any:
    """The conjugate transpose."""
    return conj(mT(x))


def computed(name: str, function: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """A routine of xp.linalg whose failure (singular, not definite, no convergence) is a RuntimeError with shapes."""
    xp = of(arrays[0]).xp
    try:
        return function(*arrays, **options)
    except xp.linalg.LinAlgError as error:
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise RuntimeError(f"{name} of shape {shapes}: {str(error).lower()}") from None


class Inv(Function):
    """Inverses of square matrices."""

    name = "LinalgInvEx"

    def forward(ctx: Any, x: Any) -> Any:
        y = computed("inv", of(x).xp.linalg.inv, x)
        ctx.save(y)
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        (y,) = ctx.saved
        yh = adjoint(y)
        return -matmul(yh, matmul(g, yh))


class Solve(Function):
    """The x of a @ x = b, with b of shape (..., n, columns)."""

    name = "LinalgSolveEx"

    def forward(ctx: Any, a: Any, b: Any) -> Any:
        xp, front = of(a).xp, a.shape[:-2]
        if front == b.shape[:-2]:
            x = computed("solve", xp.linalg.solve, a, b)
        else:  # cupy broadcasts nothing here
            front = xp.broadcast_shapes(front, b.shape[:-2])
            x = computed("solve", xp.linalg.solve, xp.broadcast_to(a, front + a.shape[-2:]),
                         xp.broadcast_to(b, front + b.shape[-2:]))
        ctx.save(a, x)
        return x

    def vjp(ctx: Any, g: Any) -> Any:
        a, x = ctx.saved
        gb = Solve.apply(adjoint(a), g)
        return -matmul(gb, adjoint(x)) if ctx.needs(0) else None, gb


def _cofactors(x: Any) -> Any:
    """The derivative of det(x) by each element, also for singular matrices, from raw arrays."""
    u, s, vh = of(x).xp.linalg.svd(x)
    phase = of(x).xp.linalg.det(u) * of(x).xp.linalg.det(vh)
    others = product_of_others(s, s.ndim - 1)
    return phase[..., None, None] * ((u * others[..., None, :]) @ vh).conj()


class Det(Function):
    """Determinants."""

    name = "LinalgDet"

    def forward(ctx: Any, x: Any) -> Any:
        y = of(x).xp.asarray(of(x).xp.linalg.det(x))
        ctx.save(x, y)
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        if isinstance(g, TensorBase):
            return unsqueeze(unsqueeze(g * conj(y), -1), -1) * adjoint(inv(x))
        return unsqueeze(unsqueeze(g, -1), -1) * _cofactors(x).conj()


class Slogdet(Function):
    """Signs and logarithms of determinants."""

    name = "LinalgSlogdet"

    def forward(ctx: Any, x: Any) -> Any:
        ctx.save(x)
        return tuple(of(x).xp.linalg.slogdet(x))

    def vjp(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved
        return None if g[1] is None else unsqueeze(unsqueeze(g[1], -1), -1) * adjoint(inv(x))


def _halved(x: Any) -> Any:
    """The lower triangle with half of the diagonal."""
    return (tril(x) + tril(x, -1)) * 0.5


class Cholesky(Function):
    """Lower triangles L with L @ L^H = x."""

    name = "LinalgCholeskyEx"

    def forward(ctx: Any, x: Any) -> Any:
        y = computed("cholesky", of(x).xp.linalg.cholesky, x)
        ctx.save(y)
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        (y,) = ctx.saved
        yh = adjoint(y)
        inside = _halved(matmul(yh, g))
        left = Solve.apply(yh, inside)
        full = adjoint(Solve.apply(yh, adjoint(left)))
        return (full + adjoint(full)) * 0.5


class QR(Function):
    """Orthonormal Q and upper triangular R with Q @ R = x."""

    name = "LinalgQr"

    def forward(ctx: Any, x: Any, mode: str) -> Any:
        q, r = computed("qr", of(x).xp.linalg.qr, x, mode=mode)
        ctx.mode, ctx.inside = mode, x.shape
        ctx.save(q, r)
        return q, r

    def vjp(ctx: Any, g: Any) -> Any:
        q, r = ctx.saved
        gq, gr = g
        m, n = ctx.inside[-2:]
        if ctx.mode == "complete" and m > n:
            raise RuntimeError(f"qr: mode 'complete' has no gradient for more rows than columns, shape {ctx.inside}")
        gq = q * 0 if gq is None else gq
        gr = r * 0 if gr is None else gr
        if m >= n:
            return _qr_square(q, r, gq, gr)
        # The first m columns alone make Q; the others are q @ r.
        rest = n - m
        last = narrow(gr, -1, m, rest)
        gq = gq + matmul(matmul(q, narrow(r, -1, m, rest)), adjoint(last))
        head = _qr_square(q, narrow(r, -1, 0, m), gq, narrow(gr, -1, 0, m))
        return cat((head, matmul(q, last)), -1)


def _qr_square(q: Any, r: Any, gq: Any, gr: Any) -> Any:
    """The gradient of qr for at least as many rows as columns."""
    inside = matmul(r, adjoint(gr)) - matmul(adjoint(gq), q)
    mirrored = tril(inside) + adjoint(tril(inside, -1))
    return adjoint(Solve.apply(r, adjoint(gq + matmul(q, mirrored))))


def check_matrices(name: str, x: Any, square: bool = False) -> None:
    shape = tuple(x.shape)
    if len(shape) < 2 or (square and shape[-1] != shape[-2]):
        raise RuntimeError(f"{name}: takes {'square ' if square else ''}matrices (..., m, n), got shape {shape}")
    if x.dtype.kind not in "fc" or x.dtype.itemsize == 2:
        raise RuntimeError(f"{name}: takes float32, float64 or complex tensors, got {x.dtype}")


def inv(x: Any) -> Any:
    """The inverses of square matrices.

    Raises:
        RuntimeError: not square, or one is singular.
    """
    check_matrices("inv", x, True)
    return Inv.apply(x)


def solve(a: Any, b: Any, *, left: bool = True) -> Any:
    """The x of a @ x = b (with left=False of x @ a = b).

    Args:
        a: (..., n, n).
        b: (..., n, columns), or vectors of shape (..., n) where that is the shape of a without its last dimension.

    Raises:
        RuntimeError: shapes that do not fit, or a singular matrix.
    """
    check_matrices("solve", a, True)
    shape = tuple(b.shape)
    vector = len(shape) == 1 or shape == tuple(a.shape[:-1])
    if vector:
        if not left:
            raise RuntimeError(f"solve: left=False takes matrices on the right-hand side, got shape {shape}")
        b = unsqueeze(b, -1)
    if not left:
        return mT(solve(mT(a), mT(b)))
    if b.shape[-2] != a.shape[-1]:
        raise RuntimeError(f"solve: {tuple(a.shape)} and right-hand sides of shape {shape} do not fit")
    out = Solve.apply(a, b)
    return squeeze(out, -1) if vector else out


def det(x: Any) -> Any:
    """The determinants of square matrices; also singular ones have a gradient."""
    check_matrices("det", x, True)
    return Det.apply(x)


def slogdet(x: Any) -> SlogdetResult:
    """(sign, log |det|) of square matrices, without overflow; the sign has no gradient."""
    check_matrices("slogdet", x, True)
    return SlogdetResult(*Slogdet.apply(x))


def logdet(x: Any) -> Any:
    """The logarithm of the determinants; NaN where one is negative."""
    sign, logabsdet = slogdet(x)
    return logabsdet + log(sign)


def cholesky(x: Any, *, upper: bool = False) -> Any:
    """The lower triangles L with L @ L^H = x of positive definite matrices; `upper` gives L^H.

    Raises:
        RuntimeError: not square, or not positive definite.
    """
    check_matrices("cholesky", x, True)
    y = Cholesky.apply(x)
    return adjoint(y) if upper else y


def qr(x: Any, mode: str = "reduced") -> QRResult:
    """Q with orthonormal columns and upper triangular R, x = Q @ R.

    Args:
        mode: 'reduced', 'complete' (square Q) or 'r' (an empty Q, no gradient).

    Raises:
        RuntimeError: another mode.
    """
    check_matrices("qr", x)
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"qr: mode is 'reduced', 'complete' or 'r', got {mode!r}")
    if mode == "r":
        array = raw(x)
        xp = of(array).xp
        return QRResult(plain(x, xp.zeros((0,), array.dtype)), plain(x, xp.linalg.qr(array, mode="r")))
    return QRResult(*QR.apply(x, mode=mode))
