"""Attention, softmax(q k^T * scale + mask) v, and its gradients.

A query that may look at no key at all (scores of -inf throughout) has weights of 0, not NaN. Of the weights, only each
row's largest score and the sum of its exponentials are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

from ._register import kernel
from ._wide import wide

__all__ = ["attention", "attention_backward"]


def _scores(xp: Any, q: Any, k: Any, mask: Any, causal: bool, scale: float) -> Any:
    scores = xp.matmul(q * scale, k.swapaxes(-1, -2))
    if mask is not None:
        scores = scores + wide(mask)
    if causal:
        scores[..., ~xp.tri(*scores.shape[-2:], dtype=bool)] = -xp.inf
    return scores


@kernel
def attention(xp: Any, q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float) -> tuple[Any, Any, Any]:
    """Attend from q (..., L, E) to k (..., S, E) and v (..., S, V), all with the same dimensions in front.

    Args:
        mask: added to the scores, broadcasts to (..., L, S); None for none.
        causal: query i looks at keys 0 to i.

    Returns:
        (result (..., L, V), each query's largest score (..., L), its sum of exponentials (..., L)).
    """
    scores = _scores(xp, wide(q), wide(k), mask, causal, scale)
    top = scores.max(-1) if scores.shape[-1] else xp.full(scores.shape[:-1], -xp.inf, scores.dtype)
    top[top == -xp.inf] = 0
    scores -= top[..., None]
    weights = xp.exp(scores, out=scores)
    total = weights.sum(-1)
    y = xp.matmul(weights, wide(v))
    y /= xp.where(total == 0, 1, total)[..., None]
    return y.astype(q.dtype, copy=False), top, total


@kernel
def attention_backward(xp: Any, g: Any, q: Any, k: Any, v: Any, mask: Any, top: Any, total: Any, causal: bool,
                       scale: float, of_mask: bool) -> tuple[Any, Any, Any, Any]:
    """Gradients of q, k, v and, with `of_mask`, of the mask as broadcast to (..., L, S), else None."""
    dtype = q.dtype
    g, q, k, v = wide(g), wide(q), wide(k), wide(v)
    scores = _scores(xp, q, k, mask, causal, scale)
    scores -= top[..., None]
    weights = xp.exp(scores, out=scores)
    weights /= xp.where(total == 0, 1, total)[..., None]
    gv = xp.matmul(weights.swapaxes(-1, -2), g)
    change = xp.matmul(g, v.swapaxes(-1, -2))
    change -= (weights * change).sum(-1, keepdims=True)
    change *= weights
    gq = xp.matmul(change, k)
    gq *= scale
    gk = xp.matmul(change.swapaxes(-1, -2), q)
    gk *= scale
    gmask = change.astype(dtype, copy=False) if of_mask else None
    return gq.astype(dtype, copy=False), gk.astype(dtype, copy=False), gv.astype(dtype, copy=False), gmask
