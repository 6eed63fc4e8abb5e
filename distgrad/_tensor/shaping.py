"""Shapes and indexing as methods, one line each."""

from __future__ import annotations

from typing import Any

from .._typing import Dims
from ..ops import index as I
from ..ops import shape as shape_ops
from ..ops.inplace import in_place
from .arguments import is_shape, sizes

__all__ = ["Shaping"]


class Shaping:
    """Methods that move, repeat or choose elements."""

    __slots__ = ()

    # shape

    def reshape(self, *shape: Any) -> Any:
        return shape_ops.reshape(self, sizes(shape))

    def view(self, *shape: Any) -> Any:
        return shape_ops.view(self, sizes(shape)) if is_shape(shape) else self.to(shape[0])

    def view_as(self, other: Any) -> Any:
        return shape_ops.view(self, other.shape)

    def reshape_as(self, other: Any) -> Any:
        return shape_ops.reshape(self, other.shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        return shape_ops.flatten(self, start_dim, end_dim)

    def unflatten(self, dim: int, sizes: Any) -> Any:
        return shape_ops.unflatten(self, dim, sizes)

    def ravel(self) -> Any:
        return shape_ops.flatten(self)

    def squeeze(self, dim: Dims = None) -> Any:
        return shape_ops.squeeze(self, dim)

    def unsqueeze(self, dim: int) -> Any:
        return shape_ops.unsqueeze(self, dim)

    def transpose(self, dim0: int, dim1: int) -> Any:
        return shape_ops.transpose(self, dim0, dim1)

    def swapaxes(self, dim0: int, dim1: int) -> Any:
        return shape_ops.transpose(self, dim0, dim1)

    def permute(self, *dims: Any) -> Any:
        return shape_ops.permute(self, sizes(dims))

    def movedim(self, source: Dims, destination: Dims) -> Any:
        return shape_ops.movedim(self, source, destination)

    def t(self) -> Any:
        return shape_ops.t(self)

    def expand(self, *dims: Any) -> Any:
        return shape_ops.expand(self, sizes(dims))

    def expand_as(self, other: Any) -> Any:
        return shape_ops.expand(self, other.shape)

    def broadcast_to(self, size: Any) -> Any:
        return shape_ops.broadcast_to(self, size)

    def sum_to_size(self, *size: Any) -> Any:
        return shape_ops.sum_to_size(self, sizes(size))

    def split(self, split_size: Any, dim: int = 0) -> Any:
        return shape_ops.split(self, split_size, dim)

    def chunk(self, chunks: int, dim: int = 0) -> Any:
        return shape_ops.chunk(self, chunks, dim)

    def unbind(self, dim: int = 0) -> Any:
        return shape_ops.unbind(self, dim)

    def stack_with(self, others: Any) -> Any:
        return shape_ops.stack((self, *others))

    def repeat(self, *dims: Any) -> Any:
        return shape_ops.repeat(self, sizes(dims))

    def tile(self, *dims: Any) -> Any:
        return shape_ops.tile(self, sizes(dims))

    def repeat_interleave(self, repeats: Any, dim: int | None = None) -> Any:
        return shape_ops.repeat_interleave(self, repeats, dim)

    def flip(self, *dims: Any) -> Any:
        return shape_ops.flip(self, sizes(dims))

    def roll(self, shifts: Any, dims: Dims = None) -> Any:
        return shape_ops.roll(self, shifts, dims)

    def diagonal(self, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
        return shape_ops.diagonal(self, offset, dim1, dim2)

    def diag(self, diagonal: int = 0) -> Any:
        return shape_ops.diag(self, diagonal)

    def tril(self, diagonal: int = 0) -> Any:
        return shape_ops.tril(self, diagonal)

    def triu(self, diagonal: int = 0) -> Any:
        return shape_ops.triu(self, diagonal)

    def narrow(self, dim: int, start: int, length: int) -> Any:
        return shape_ops.narrow(self, dim, start, length)

    def select(self, dim: int, index: int) -> Any:
        return shape_ops.select(self, dim, index)

    def unfold(self, dimension: int, size: int, step: int) -> Any:
        return shape_ops.unfold(self, dimension, size, step)

    def contiguous(self) -> Any:
        return shape_ops.contiguous(self)

    def clone(self) -> Any:
        return shape_ops.clone(self)

    # indexing

    def __getitem__(self, key: Any) -> Any:
        return I.getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        in_place("setitem", self, I.index_put, key, value)

    def gather(self, dim: int, index: Any) -> Any:
        return I.gather(self, dim, index)

    def scatter(self, dim: int, index: Any, src: Any) -> Any:
        return I.scatter(self, dim, index, src)

    def scatter_add(self, dim: int, index: Any, src: Any) -> Any:
        return I.scatter_add(self, dim, index, src)

    def index_select(self, dim: int, index: Any) -> Any:
        return I.index_select(self, dim, index)

    def index_add(self, dim: int, index: Any, source: Any) -> Any:
        return I.index_add(self, dim, index, source)

    def index_fill(self, dim: int, index: Any, value: Any) -> Any:
        return I.index_fill(self, dim, index, value)

    def index_copy(self, dim: int, index: Any, source: Any) -> Any:
        return I.index_copy(self, dim, index, source)

    def masked_select(self, mask: Any) -> Any:
        return I.masked_select(self, mask)

    def nonzero(self) -> Any:
        return I.nonzero(self)

    def scatter_(self, dim: int, index: Any, src: Any) -> Any:
        return in_place("scatter_", self, I.scatter, dim, index, src)

    def scatter_add_(self, dim: int, index: Any, src: Any) -> Any:
        return in_place("scatter_add_", self, I.scatter_add, dim, index, src)

    def index_add_(self, dim: int, index: Any, source: Any) -> Any:
        return in_place("index_add_", self, I.index_add, dim, index, source)

    def index_fill_(self, dim: int, index: Any, value: Any) -> Any:
        return in_place("index_fill_", self, I.index_fill, dim, index, value)

    def index_copy_(self, dim: int, index: Any, source: Any) -> Any:
        return in_place("index_copy_", self, I.index_copy, dim, index, source)

    def index_put_(self, key: Any, value: Any, accumulate: bool = False) -> Any:
        return in_place("index_put_", self, I.index_put, key, value, accumulate=accumulate)
