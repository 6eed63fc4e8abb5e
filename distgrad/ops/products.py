"""Products of vectors, matrices and batches of them."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._arguments import one_dim, same_dtype
from ._declare import conj
from .einsum import contract, one_dtype
from .rearrange import diagonal, roll
from .sums import sum as total
from .views import broadcast_tensors, expand, mT, reshape, unsqueeze

__all__ = ["Dot", "MatMul", "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "cross", "dot",
           "inner", "kron", "matmul", "matrix_power", "mm", "multi_dot", "mv", "outer", "trace", "vdot"]


def _product(a: Any, b: Any) -> Any:
    """The raw a @ b; many matrices by one are folded into a single product."""
    matmul = of(a).kernels.matmul
    if a.ndim > 2 and b.ndim == 2:
        return matmul(a.reshape(-1, a.shape[-1]), b).reshape(a.shape[:-1] + b.shape[1:])
    return matmul(a, b)


class MatMul(Function):
    """Products of matrices (..., m, k) and (..., k, n), of which leading dimensions broadcast."""

    name = "Mm"

    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.save(a if ctx.needs(1) else None, b if ctx.needs(0) else None)
        return _product(a, b)

    def vjp(ctx: Any, g: Any) -> Any:
        a, b = ctx.saved
        ga = gb = None
        if not isinstance(g, TensorBase) and g.ndim == 2 and g.dtype.kind == "f" \
                and (a is None or a.ndim == 2) and (b is None or b.ndim == 2):  # the usual case
            matmul = of(g).kernels.matmul
            return None if b is None else matmul(g, b.T), None if a is None else matmul(a.T, g)
        if b is not None:
            ga = MatMul.apply(g, conj(mT(b)))
        if a is not None:
            if len(a.shape) > 2 and len(ctx.edges[1].shape) == 2:
                # One matrix for many: its gradient is one product, not a batch of them to sum.
                a = reshape(a, (-1, a.shape[-1]))
                g = reshape(g, (-1, g.shape[-1]))
            gb = MatMul.apply(conj(mT(a)), g)
        return ga, gb


class Dot(Function):
    """The product of two vectors."""

    def forward(ctx: Any, a: Any, b: Any) -> Any:
        ctx.save(a, b)
        return _product(a, b)

    def vjp(ctx: Any, g: Any) -> Any:
        a, b = ctx.saved
        return g * conj(b) if ctx.needs(0) else None, g * conj(a) if ctx.needs(1) else None


def _shapes(a: Any, b: Any) -> str:
    return f"shapes {tuple(a.shape)} and {tuple(b.shape)}"


def matmul(a: Any, b: Any) -> Any:
    """The matrix product a @ b.

    Vectors count as a row on the left and a column on the right, and that dimension disappears.
    Dimensions before the last two are batches, which broadcast.

    Raises:
        RuntimeError: shapes or dtypes that do not fit, or a 0-d operand.
    """
    shape_a, shape_b = a.shape, b.shape
    na, nb = len(shape_a), len(shape_b)
    if na == nb == 2 and shape_a[1] == shape_b[0] and a.dtype is b.dtype:  # the usual case
        return MatMul.apply(a, b)
    if not na or not nb:
        raise RuntimeError(f"matmul: needs at least one dimension each, got {_shapes(a, b)}")
    one_dtype("matmul", a, b)
    if a.shape[-1] != b.shape[-2 if nb > 1 else 0]:
        raise RuntimeError(f"matmul: {_shapes(a, b)} do not fit: {a.shape[-1]} columns, "
                           f"{b.shape[-2 if nb > 1 else 0]} rows")
    if na > 1 and nb > 1:
        try:
            return MatMul.apply(a, b)
        except ValueError:
            raise RuntimeError(f"matmul: the leading dimensions of {_shapes(a, b)} do not broadcast") from None
    if na == 1 and nb == 1:
        return Dot.apply(a, b)
    if na == 1:
        out = MatMul.apply(unsqueeze(a, 0), b)
        return reshape(out, tuple(out.shape[:-2]) + tuple(out.shape[-1:]))
    out = MatMul.apply(a, unsqueeze(b, 1))
    return reshape(out, tuple(out.shape[:-1]))


def _ranks(name: str, a: Any, b: Any, rank_a: int, rank_b: int) -> None:
    if len(a.shape) != rank_a or len(b.shape) != rank_b:
        raise RuntimeError(f"{name}: takes {rank_a}-d and {rank_b}-d, got {_shapes(a, b)}")


def mm(a: Any, b: Any) -> Any:
    """The product of two matrices."""
    _ranks("mm", a, b, 2, 2)
    return matmul(a, b)


def bmm(a: Any, b: Any) -> Any:
    """The products of two batches of matrices, (batch, m, k) and (batch, k, n).

    Raises:
        RuntimeError: not 3-d, or batches of different sizes.
    """
    _ranks("bmm", a, b, 3, 3)
    if a.shape[0] != b.shape[0]:
        raise RuntimeError(f"bmm: batches of different sizes, {_shapes(a, b)}")
    return matmul(a, b)


def mv(a: Any, b: Any) -> Any:
    """The product of a matrix and a vector."""
    _ranks("mv", a, b, 2, 1)
    return matmul(a, b)


def dot(a: Any, b: Any) -> Any:
    """The product of two vectors; complex ones are not conjugated."""
    _ranks("dot", a, b, 1, 1)
    return matmul(a, b)


def vdot(a: Any, b: Any) -> Any:
    """The product of two vectors, the first conjugated."""
    return dot(conj(a), b)


def outer(a: Any, b: Any) -> Any:
    """(n, m): every element of one vector times every one of the other."""
    _ranks("outer", a, b, 1, 1)
    return unsqueeze(a, 1) * unsqueeze(b, 0)


def inner(a: Any, b: Any) -> Any:
    """Sums of products over the last dimensions of both; with a 0-d operand a plain product.

    Raises:
        RuntimeError: the last dimensions differ.
    """
    na, nb = len(a.shape), len(b.shape)
    if not na or not nb:
        return a * b
    if a.shape[-1] != b.shape[-1]:
        raise RuntimeError(f"inner: the last dimensions of {_shapes(a, b)} differ")
    one_dtype("inner", a, b)
    left = (*range(na - 1), -1)
    right = (*range(na - 1, na + nb - 2), -1)
    return contract(a, left, b, right, tuple(range(na + nb - 2)))


def _weighted(name: str, x: Any, product: Any, beta: Any, alpha: Any) -> Any:
    """beta * x + alpha * product; with beta 0 nothing of x, not even NaN, is in the result."""
    try:
        x = expand(x, tuple(product.shape))
    except RuntimeError:
        raise RuntimeError(f"{name}: shape {tuple(x.shape)} does not broadcast to the product's "
                           f"{tuple(product.shape)}") from None
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product
    return (x if beta == 1 else x * beta) + product


def addmm(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * x + alpha * (a @ b) for matrices; x broadcasts."""
    return _weighted("addmm", x, mm(a, b), beta, alpha)


def addmv(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * x + alpha * (a @ b) for a matrix and a vector."""
    return _weighted("addmv", x, mv(a, b), beta, alpha)


def addr(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * x + alpha * outer(a, b)."""
    return _weighted("addr", x, outer(a, b), beta, alpha)


def baddbmm(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * x + alpha * (a @ b) for batches of matrices; x broadcasts."""
    return _weighted("baddbmm", x, bmm(a, b), beta, alpha)


def addbmm(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * x + alpha * the sum of all products of a batch."""
    return _weighted("addbmm", x, total(bmm(a, b), 0), beta, alpha)


def multi_dot(tensors: Any) -> Any:
    """The product of several matrices (vectors at the ends), in the order that costs least.

    Raises:
        RuntimeError: fewer than two.
    """
    xs = same_dtype(list(tensors))
    if len(xs) < 2:
        raise RuntimeError(f"multi_dot: takes at least two tensors, got {len(xs)}")
    if len(xs) == 2:
        return matmul(*xs)
    cuts = [1 if len(xs[0].shape) == 1 else xs[0].shape[0]] + [x.shape[0] for x in xs[1:]]
    cuts.append(1 if len(xs[-1].shape) == 1 else xs[-1].shape[1])
    # best[i][j]: (cost, where to cut) for the product of xs[i..j]
    count = len(xs)
    best: list[list[tuple[int, int]]] = [[(0, i)] * count for i in range(count)]
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            best[i][j] = min((best[i][k][0] + best[k + 1][j][0] + cuts[i] * cuts[k + 1] * cuts[j + 1], k)
                             for k in range(i, j))

    def product(i: int, j: int) -> Any:
        return xs[i] if i == j else matmul(product(i, best[i][j][1]), product(best[i][j][1] + 1, j))

    return product(0, count - 1)


def chain_matmul(*matrices: Any) -> Any:
    """`multi_dot` of its arguments."""
    return multi_dot(matrices)


def matrix_power(x: Any, n: int) -> Any:
    """x multiplied n times with itself; negative n of the inverse.

    Raises:
        RuntimeError: not square.
    """
    if len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
        raise RuntimeError(f"matrix_power: takes square matrices, got shape {tuple(x.shape)}")
    if n < 0:
        from .decompose import inv  # which needs products itself

        x, n = inv(x), -n
    if n == 0:
        xp = of(x.array if isinstance(x, TensorBase) else x).xp
        return x * 0 + xp.eye(x.shape[-1], dtype=x.dtype)
    out = None
    while True:
        if n & 1:
            out = x if out is None else matmul(out, x)
        n >>= 1
        if not n:
            return out
        x = matmul(x, x)


def trace(x: Any) -> Any:
    """The sum of a matrix's diagonal.

    Raises:
        RuntimeError: not 2-d.
    """
    if len(x.shape) != 2:
        raise RuntimeError(f"trace: takes a matrix, got shape {tuple(x.shape)}")
    return total(diagonal(x))


def cross(a: Any, b: Any, dim: int = -1) -> Any:
    """The cross products of vectors with three components along `dim`; shapes broadcast.

    Raises:
        RuntimeError: `dim` does not have size 3.
    """
    a, b = broadcast_tensors(a, b)
    at = one_dim("cross", dim, len(a.shape))
    if not len(a.shape) or a.shape[at] != 3:
        raise RuntimeError(f"cross: dim {dim} has size 3, got shape {tuple(a.shape)}")
    return roll(a, -1, at) * roll(b, -2, at) - roll(a, -2, at) * roll(b, -1, at)


def kron(a: Any, b: Any) -> Any:
    """Every element of a times all of b, as blocks."""
    ndim = max(len(a.shape), len(b.shape))
    sa = (1,) * (ndim - len(a.shape)) + tuple(a.shape)
    sb = (1,) * (ndim - len(b.shape)) + tuple(b.shape)
    a = reshape(a, tuple([n for pair in zip(sa, (1,) * ndim, strict=True) for n in pair]))
    b = reshape(b, tuple([n for pair in zip((1,) * ndim, sb, strict=True) for n in pair]))
    return reshape(a * b, tuple([n * m for n, m in zip(sa, sb, strict=True)]))
