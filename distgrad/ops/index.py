"""Indexing by name: whole keys from `indexing`, index tensors along a dimension from `gather`."""

from __future__ import annotations

from .gather import (
                     argwhere,
                     gather,
                     masked_scatter,
                     masked_select,
                     nonzero,
                     one_hot,
                     scatter,
                     scatter_add,
                     take_along_dim,
)
from .indexed import embedding, index_add, index_copy, index_fill, index_select, take
from .indexing import getitem, index_put

__all__ = ["argwhere", "embedding", "gather", "getitem", "index_add", "index_copy", "index_fill", "index_put",
           "index_select", "masked_scatter", "masked_select", "nonzero", "one_hot", "scatter", "scatter_add", "take",
           "take_along_dim"]
