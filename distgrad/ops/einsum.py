"""Sums of products by labels: einsum and tensordot, contracted two operands at a time.

Each pair becomes one (batched) matrix product. The gradient of a contraction is two contractions,
so all orders of derivatives exist.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._arguments import one_dim, size_tuple
from ._declare import conj
from .rearrange import diagonal
from .sums import sum as total
from .views import permute, select

__all__ = ["Contract", "contract", "einsum", "one_dtype", "tensordot"]

_Labels = tuple[Any, ...]


class Contract(Function):
    """The sum over labels that only a and b have of a * b, with dimensions in the order `out`.

    Each operand's labels are distinct, and each is also in the other operand or in `out`.
    """

    name = "Einsum"

    def forward(ctx: Any, a: Any, b: Any, la: _Labels, lb: _Labels, out: _Labels) -> Any:
        ctx.la, ctx.lb, ctx.out = la, lb, out
        ctx.save(a if ctx.needs(1) else None, b if ctx.needs(0) else None)
        return _pair(a, la, b, lb, out)

    def vjp(ctx: Any, g: Any) -> Any:
        a, b = ctx.saved
        return (Contract.apply(g, conj(b), la=ctx.out, lb=ctx.lb, out=ctx.la) if b is not None else None,
                Contract.apply(conj(a), g, la=ctx.la, lb=ctx.out, out=ctx.lb) if a is not None else None)


def _pair(a: Any, la: _Labels, b: Any, lb: _Labels, out: _Labels) -> Any:
    """A contraction of raw arrays as one matrix product (batch, left, summed) @ (batch, summed, right)."""
    size = {**dict(zip(la, a.shape, strict=True)), **dict(zip(lb, b.shape, strict=True))}
    batch = [x for x in la if x in lb and x in out]
    summed = [x for x in la if x in lb and x not in out]
    left = [x for x in la if x not in lb]
    right = [x for x in lb if x not in la]

    def product(labels: list[Any]) -> int:
        n = 1
        for x in labels:
            n *= size[x]
        return n

    a = a.transpose([la.index(x) for x in batch + left + summed])
    b = b.transpose([lb.index(x) for x in batch + summed + right])
    front = [product(batch)] if batch else []
    y = of(a).kernels.matmul(a.reshape(*front, product(left), product(summed)),
                             b.reshape(*front, product(summed), product(right)))
    order = batch + left + right
    return y.reshape([size[x] for x in order]).transpose([order.index(x) for x in out])


def contract(a: Any, la: _Labels, b: Any, lb: _Labels, out: _Labels) -> Any:
    """The sum of a * b over all labels that are not in `out`; a size of one broadcasts.

    Args:
        la, lb: distinct labels of each operand's dimensions.
        out: distinct labels of the result's.
    """
    a, la = _matched(a, la, b, lb)
    b, lb = _matched(b, lb, a, la)
    a, la = _reduced(a, la, (*lb, *out))
    b, lb = _reduced(b, lb, (*la, *out))
    return Contract.apply(a, b, la=la, lb=lb, out=out)


def _matched(a: Any, la: _Labels, b: Any, lb: _Labels) -> tuple[Any, _Labels]:
    """a without its dimensions of size one where b has the same label in another size."""
    for label in la:
        if label in lb and a.shape[la.index(label)] == 1 != b.shape[lb.index(label)]:
            a, la = select(a, la.index(label), 0), tuple([x for x in la if x != label])
    return a, la


def _reduced(a: Any, la: _Labels, needed: _Labels) -> tuple[Any, _Labels]:
    """a summed over the labels that nobody needs."""
    gone = tuple([i for i, label in enumerate(la) if label not in needed])
    return (total(a, gone), tuple([x for x in la if x in needed])) if gone else (a, la)


def _without_repeats(a: Any, la: _Labels) -> tuple[Any, _Labels]:
    """a's diagonals where one operand has a label twice."""
    labels = list(la)
    for label in la:
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            if a.shape[first] != a.shape[second]:
                raise RuntimeError(f"einsum: label {label!r} has sizes {a.shape[first]} and {a.shape[second]} in one "
                                   f"operand of shape {tuple(a.shape)}")
            a = diagonal(a, 0, first, second)
            del labels[second], labels[first]
            labels.append(label)
    return a, tuple(labels)


@lru_cache(maxsize=512)
def _parsed(equation: str, ndims: tuple[int, ...]) -> tuple[list[_Labels], _Labels]:
    """Labels of the operands and of the result; an ellipsis becomes integers, the last dimension 0."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise RuntimeError(f"einsum: {equation!r} has {len(terms)} operands, {len(ndims)} were given")
    labels = [_term(term, ndim, equation) for term, ndim in zip(terms, ndims, strict=True)]
    hidden = max((sum(isinstance(x, int) for x in found) for found in labels), default=0)
    if arrow:
        out = _term(right, None, equation, hidden)
    else:
        letters = [x for found in labels for x in found if isinstance(x, str)]
        out = (*range(hidden - 1, -1, -1), *sorted(x for x in set(letters) if letters.count(x) == 1))
    known = {x for found in labels for x in found}
    for label in out:
        if label not in known:
            raise RuntimeError(f"einsum: {equation!r} has {label!r} in the result, but in no operand")
    if len(set(out)) != len(out):
        raise RuntimeError(f"einsum: {equation!r} has a label twice in the result")
    return labels, out


def _term(term: str, ndim: int | None, equation: str, hidden: int = 0) -> _Labels:
    """One operand's labels; `hidden` dimensions stand behind a result's ellipsis."""
    head, dots, tail = term.partition("...")
    if any(not letter.isalpha() for letter in head + tail):
        raise RuntimeError(f"einsum: labels are letters, and one ellipsis may stand among them; got {term!r} in "
                           f"{equation!r}")
    if ndim is not None:
        hidden = ndim - len(head) - len(tail)
        if hidden < 0 or (hidden and not dots):
            raise RuntimeError(f"einsum: {term!r} in {equation!r} does not fit an operand of {ndim} dimensions")
    return (*head, *(range(hidden - 1, -1, -1) if dots else ()), *tail)


def one_dtype(name: str, *operands: Any) -> None:
    """Raises RuntimeError unless all operands have one dtype; raw arrays among themselves are as numpy takes them."""
    first = operands[0].dtype
    for x in operands:
        if x.dtype is not first:
            break
    else:
        return
    dtypes = {str(x.dtype) for x in operands}
    if len(dtypes) > 1 and any(isinstance(x, TensorBase) for x in operands):
        raise RuntimeError(f"{name}: operands have one dtype, got {' and '.join(sorted(dtypes))}; cast with .to()")


def einsum(equation: str, *operands: Any) -> Any:
    """Sums of products of operands whose dimensions carry labels.

    'ik,kj->ij' multiplies matrices: labels that the result lacks are summed over. A label twice in one
    operand takes its diagonal, '...' stands for any further dimensions, which broadcast, and without
    '->' the result has the labels that occur once, in alphabetical order.

    Args:
        operands: tensors of one dtype, or one list of them.

    Raises:
        RuntimeError: an equation that is malformed or does not fit the operands, or different dtypes.
    """
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    if not operands:
        raise RuntimeError("einsum: there are no operands")
    one_dtype("einsum", *operands)
    labels, out = _parsed(equation, tuple([len(x.shape) for x in operands]))
    pairs = [(x, found) if len(set(found)) == len(found) else _without_repeats(x, found)
             for x, found in zip(operands, labels, strict=True)]
    _same_sizes(equation, pairs)
    first, la = pairs[0]
    for i, (x, lx) in enumerate(pairs[1:], 1):
        later = {label for _, rest in pairs[i + 1:] for label in rest} | set(out)
        kept = tuple([x for x in dict.fromkeys((*la, *lx)) if x in later])
        if i == len(pairs) - 1:
            kept = out
        first, la = contract(first, la, x, lx, kept), kept
    first, la = _reduced(first, la, out)
    return first if la == out else permute(first, [la.index(label) for label in out])


def _same_sizes(equation: str, pairs: list[tuple[Any, _Labels]]) -> None:
    sizes: dict[Any, int] = {}
    for x, labels in pairs:
        for label, n in zip(labels, x.shape, strict=True):
            if sizes.setdefault(label, n) == 1:
                sizes[label] = n
            elif n not in (1, sizes[label]):
                raise RuntimeError(f"einsum: label {label!r} of {equation!r} has sizes {sizes[label]} and {n}")


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """Sums of products over dimensions of a and of b.

    Args:
        dims: how many, the last ones of a and the first ones of b; or a pair of lists of dimensions.

    Raises:
        RuntimeError: different numbers or sizes of dimensions, or different dtypes.
    """
    one_dtype("tensordot", a, b)
    na, nb = len(a.shape), len(b.shape)
    if isinstance(dims, int):
        if not 0 <= dims <= min(na, nb):
            raise RuntimeError(f"tensordot: {dims} dims of shapes {tuple(a.shape)} and {tuple(b.shape)}")
        over_a, over_b = list(range(na - dims, na)), list(range(dims))
    else:
        over_a, over_b = ([one_dim("tensordot", d, n) for d in size_tuple("tensordot", side)]
                          for side, n in zip(dims, (na, nb), strict=True))
    if len(over_a) != len(over_b) or any(a.shape[i] != b.shape[j] for i, j in zip(over_a, over_b, strict=True)):
        raise RuntimeError(f"tensordot: dims {over_a} of shape {tuple(a.shape)} do not match dims {over_b} of shape "
                           f"{tuple(b.shape)}")
    la = tuple(range(na))
    lb = tuple([over_a[over_b.index(j)] if j in over_b else na + j for j in range(nb)])
    out = tuple([i for i in la if i not in over_a]) + tuple([j for j in lb if j >= na])
    return contract(a, la, b, lb, out)
