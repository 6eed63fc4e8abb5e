"""Attention as one op: a pair of kernels that never keep the weights; second derivatives by its formula."""

from __future__ import annotations

import math
from typing import Any

from ..backend import of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._arguments import raw
from ._checks import check_floating, check_same_dtype
from ._composite import composite_vjp
from ._kernels import Kernels
from .dropout import dropout
from .products import matmul
from .select import masked_fill
from .shape import expand, repeat_interleave, transpose
from .softmax import softmax

__all__ = ["Attention", "scaled_dot_product_attention"]

NAME = "scaled_dot_product_attention"


class Attention(Function):
    """softmax(q k^T * scale + mask) v, where a query without any key gets 0."""

    name = "ScaledDotProductAttention"

    def forward(ctx: Any, q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float) -> Any:
        y, top, total = of(q).kernels.attention(q, k, v, mask, causal, scale)
        ctx.save(q, k, v, mask, top, total)
        ctx.causal, ctx.scale = causal, scale
        return y

    def vjp(ctx: Any, g: Any) -> Any:
        q, k, v, mask, top, total = ctx.saved
        if isinstance(g, TensorBase):
            return composite_vjp(lambda *inputs: _formula(*inputs, ctx.causal, ctx.scale), (q, k, v, mask), g)
        return of(g).kernels.attention_backward(g, q, k, v, mask, top, total, ctx.causal, ctx.scale, ctx.needs(3))


_later = Kernels(lambda xp, scores: ~xp.tri(*scores.shape[-2:], dtype=bool))
_to_add = Kernels(lambda xp, mask, dtype: xp.where(mask, xp.zeros((), dtype), xp.full((), -math.inf, dtype)))
_nothing = Kernels(lambda xp, scores: (scores == -math.inf).all(-1, keepdims=True))


def _formula(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, p: float = 0.0) -> Any:
    """The same in plain ops, and with dropout of the weights."""
    scores = matmul(q * scale, transpose(k, -2, -1))
    if mask is not None:
        scores = scores + mask
    if causal:
        scores = masked_fill(scores, _later(raw(scores)), -math.inf)
    none = _nothing(raw(scores))
    weights = masked_fill(softmax(masked_fill(scores, none, 0.0), -1), none, 0.0)
    return matmul(dropout(weights, p) if p else weights, v)


def _check(q: Any, k: Any, v: Any, p: float) -> None:
    check_floating(NAME, q)
    check_same_dtype(NAME, q, key=k, value=v)
    shapes = f"query {tuple(q.shape)}, key {tuple(k.shape)}, value {tuple(v.shape)}"
    if min(len(x.shape) for x in (q, k, v)) < 2:
        raise RuntimeError(f"{NAME}: needs (..., length, features), got {shapes}")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise RuntimeError(f"{NAME}: queries and keys need as many features, keys and values the same length; got "
                           f"{shapes}")
    if not 0 <= p <= 1:
        raise RuntimeError(f"{NAME}: dropout_p is a probability in [0, 1], got {p}")


def _together(q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
    """All three with the same dimensions in front."""
    fronts = [tuple(x.shape[:-2]) for x in (q, k, v)]
    if fronts[0] == fronts[1] == fronts[2]:
        return q, k, v
    try:
        front = of(raw(q)).xp.broadcast_shapes(*fronts)
    except ValueError:
        raise RuntimeError(f"{NAME}: batches of query, key and value do not broadcast: {fronts}; with fewer heads of "
                           "keys than of queries, give enable_gqa=True") from None
    q, k, v = (expand(x, (*front, *x.shape[-2:])) for x in (q, k, v))
    return q, k, v


def _added(mask: Any, q: Any, k: Any) -> Any:
    """A mask as numbers to add."""
    shape = (*q.shape[:-1], k.shape[-2])
    if mask.dtype.kind != "b" and mask.dtype != q.dtype:
        raise RuntimeError(f"{NAME}: attn_mask is bool or {q.dtype} as the query, got {mask.dtype}")
    if len(mask.shape) > len(shape) or any(m not in (1, n) for m, n in
                                           zip(reversed(mask.shape), reversed(shape), strict=False)):
        raise RuntimeError(f"{NAME}: attn_mask of shape {tuple(mask.shape)} does not broadcast to the scores, {shape}")
    if mask.dtype.kind == "b":
        return _to_add(raw(mask), q.dtype)
    return mask


def scaled_dot_product_attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
                                 is_causal: bool = False, scale: float | None = None,
                                 enable_gqa: bool = False) -> Any:
    """softmax(query key^T * scale + mask) value.

    A query that may look at no key gets 0.

    Args:
        query: (..., L, E); key: (..., S, E); value: (..., S, V). What stands in front broadcasts.
        attn_mask: broadcasts to (..., L, S); boolean, True where a query may look, or floating, added.
        dropout_p: applied to the weights whenever it is not 0: pass 0 in evaluation.
        is_causal: query i looks at keys 0 to i.
        scale: 1 / sqrt(E) unless given.
        enable_gqa: keys and values (..., heads / n, S, ...) serve n heads of queries each.

    Returns:
        (..., L, V).

    Raises:
        RuntimeError: shapes, dtypes or settings do not fit; a mask together with is_causal.
    """
    if is_causal and attn_mask is not None:
        raise RuntimeError(f"{NAME}: give attn_mask or is_causal, not both")
    _check(query, key, value, dropout_p)
    if enable_gqa:
        key, value = (_for_heads(query, x) for x in (key, value))
    query, key, value = _together(query, key, value)
    scale = 1 / math.sqrt(max(1, query.shape[-1])) if scale is None else float(scale)
    mask = None if attn_mask is None else _added(attn_mask, query, key)
    if dropout_p:
        return _formula(query, key, value, mask, is_causal, scale, dropout_p)
    return Attention.apply(query, key, value, mask, causal=bool(is_causal), scale=scale)


def _for_heads(query: Any, x: Any) -> Any:
    """Keys or values, each head as often as there are heads of queries for it."""
    if len(query.shape) < 3 or len(x.shape) < 3 or not x.shape[-3] or query.shape[-3] % x.shape[-3]:
        raise RuntimeError(f"{NAME}: enable_gqa needs a number of heads of queries that is a multiple of that of keys "
                           f"and of values, got shapes {tuple(query.shape)} and {tuple(x.shape)}")
    return repeat_interleave(x, query.shape[-3] // x.shape[-3], dim=-3)
