"""Shapes by name: views, joining and taking apart, rearranging."""

from __future__ import annotations

from .join import cat, chunk, dstack, hstack, repeat, repeat_interleave, split, stack, tile, unbind, vstack
from .rearrange import diag, diag_embed, diagonal, flip, fliplr, flipud, pad, roll, rot90, tril, triu, unfold
from .sums import sum_to_size
from .views import (
                    broadcast_tensors,
                    broadcast_to,
                    clone,
                    contiguous,
                    expand,
                    expand_as,
                    flatten,
                    moveaxis,
                    movedim,
                    mT,
                    narrow,
                    permute,
                    reshape,
                    select,
                    squeeze,
                    swapaxes,
                    swapdims,
                    t,
                    transpose,
                    unflatten,
                    unsqueeze,
                    view,
                    view_as,
)

__all__ = ["broadcast_tensors", "broadcast_to", "cat", "chunk", "clone", "contiguous", "diag", "diag_embed",
           "diagonal", "dstack", "expand", "expand_as", "flatten", "flip", "fliplr", "flipud", "hstack", "mT",
           "moveaxis", "movedim", "narrow", "pad", "permute", "repeat", "repeat_interleave", "reshape", "roll",
           "rot90", "select", "split", "squeeze", "stack", "sum_to_size", "swapaxes", "swapdims", "t", "tile",
           "transpose", "tril", "triu", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as", "vstack"]
