"""Attention as a layer with several heads."""

from __future__ import annotations

import math
from typing import Any

from .._tensor.creation import empty
from ..ops.attention import scaled_dot_product_attention
from ..ops.dropout import dropout as drop
from ..ops.linear import linear
from ..ops.select import masked_fill
from ..ops.shape import chunk, reshape, transpose
from ..ops.softmax import softmax
from . import init
from .linear import Linear
from .module import Module
from .parameter import Parameter

__all__ = ["MultiheadAttention", "scaled_dot_product_attention"]


class MultiheadAttention(Module):
    """Attention with `num_heads` heads, each over embed_dim / num_heads features (Vaswani et al., 2017).

    Args:
        embed_dim: features of queries and of the result.
        dropout: on the attention weights, in training.
        kdim, vdim: features of keys and values; embed_dim unless given.
        batch_first: (batch, length, features) instead of (length, batch, features).
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 kdim: int | None = None, vdim: int | None = None, batch_first: bool = False, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {embed_dim} features")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first = batch_first
        placed = {"device": device, "dtype": dtype}
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = Parameter(empty(3 * embed_dim, embed_dim, **placed))
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.q_proj_weight = Parameter(empty(embed_dim, embed_dim, **placed))
            self.k_proj_weight = Parameter(empty(embed_dim, self.kdim, **placed))
            self.v_proj_weight = Parameter(empty(embed_dim, self.vdim, **placed))
            self.register_parameter("in_proj_weight", None)
        if bias:
            self.in_proj_bias = Parameter(empty(3 * embed_dim, **placed))
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = Linear(embed_dim, embed_dim, bias, **placed)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projections' weights anew (Xavier); biases start at 0."""
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = getattr(self, name)
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def _projected(self, query: Any, key: Any, value: Any) -> list[Any]:
        """Queries, keys and values through their own projections."""
        if self.in_proj_weight is not None:
            weights = chunk(self.in_proj_weight, 3, 0)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else chunk(self.in_proj_bias, 3, 0)
        if query is key is value and self.in_proj_weight is not None:
            return list(chunk(linear(query, self.in_proj_weight, self.in_proj_bias), 3, -1))
        return [linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _mask(self, key_padding_mask: Any, attn_mask: Any, is_causal: bool, batch: int) -> Any:
        """Both masks as one to add, True there meaning that a query may not look; None without any."""
        if is_causal and attn_mask is None:
            raise RuntimeError("MultiheadAttention: is_causal is a hint about attn_mask, which must be given with it")
        found = None
        for mask, shape in ((attn_mask, None), (key_padding_mask, (batch, 1, 1, -1))):
            if mask is None:
                continue
            if shape is None and mask.ndim == 3:
                shape = (batch, self.num_heads, *mask.shape[1:])
            mask = mask if shape is None else reshape(mask, shape)
            if mask.dtype.kind == "b":
                mask = masked_fill(mask.to(self.out_proj.weight.dtype) * 0, mask, -math.inf)
            found = mask if found is None else found + mask
        return found

    def forward(self, query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: bool = True,
                attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False) -> tuple[Any, Any]:
        """Attend from queries to keys.

        Args:
            query: (L, N, E), or (N, L, E) with batch_first, or (L, E); key, value: the same with S for L.
            key_padding_mask: (N, S); True (or -inf, added) for keys to leave out.
            need_weights: also return the attention weights, of all heads or their mean.
            attn_mask: (L, S) or (N * heads, L, S); True (or -inf, added) where a query may not look.

        Returns:
            (result, like the query; weights (N, L, S) or None).
        """
        batched = query.ndim == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = _turned(query, key, value)
        batch, length = query.shape[:2]
        q, k, v = (transpose(reshape(x, (batch, -1, self.num_heads, self.embed_dim // self.num_heads)), 1, 2)
                   for x in self._projected(query, key, value))
        mask = self._mask(key_padding_mask, attn_mask, is_causal, batch)
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * (1 / math.sqrt(q.shape[-1]))).matmul(transpose(k, -2, -1))
            weights = softmax(scores if mask is None else scores + mask, -1)
            if p:
                weights = drop(weights, p, True)
            y = weights.matmul(v)
        else:
            y = scaled_dot_product_attention(q, k, v, mask, p)
        y = self.out_proj(reshape(transpose(y, 1, 2), (batch, length, self.embed_dim)))
        if need_weights and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else transpose(y, 0, 1)), weights


def _turned(query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    """(length, batch, features) as (batch, length, features); one tensor given thrice stays one."""
    q = transpose(query, 0, 1)
    k = q if key is query else transpose(key, 0, 1)
    return q, k, k if value is key else transpose(value, 0, 1)
