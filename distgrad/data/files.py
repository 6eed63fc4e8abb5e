"""Rows of an array in a file: what memory-mapped and HDF5 arrays have in common.

A file is opened when a process first reads it, never sent to another one, and read only; each batch reads
its own rows and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._tensor.creation import from_numpy
from ..backend.dtypes import category
from .dataset import Dataset, Subset
from .resumable import require_count
from .rows import Rows, as_indices

__all__ = ["FileDataset"]

PathLike = str | os.PathLike[str]


class FileDataset(Dataset[Any]):
    """Sample i is row i of an array in a file, as a tensor of its own memory.

    Attributes:
        path: the file; relative to the folder that was current when the dataset was made.
        shape, dtype: of the whole array; rows are given in this machine's byte order.

    Args:
        transform: called with each row's tensor, for what a sample is to be instead; rows are then read
            together, and changed one by one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self, path: PathLike, transform: Callable[[Any], Any] | None = None) -> None:
        if transform is not None and not callable(transform):
            raise TypeError(f"transform is a function of a sample, got {type(transform).__name__}")
        self.path = os.path.abspath(os.fspath(path))
        if not os.path.exists(self.path):
            raise FileNotFoundError(f"{type(self).__name__}: there is no file {self.path}")
        self.transform = transform

    def _describe(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Keep shape and dtype, if tensors can be made of them."""
        what = f"{type(self).__name__}: {self.path}"
        if not shape:
            raise ValueError(f"{what} holds a single number, which has no rows")
        try:
            category(dtype)
        except TypeError:
            raise TypeError(f"{what} holds {dtype}, which tensors do not have: they are boolean, integer, floating "
                            "or complex") from None
        self.shape = tuple(int(size) for size in shape)
        self.dtype = dtype.newbyteorder("=")

    def _read(self, indices: np.ndarray) -> np.ndarray:
        """The rows at these indices, in [0, length) and in any order, as a new array."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """The rows at these indices: neighbours by one contiguous read."""
        rows = Rows(from_numpy(self._read(as_indices(indices, len(self))).astype(self.dtype, copy=False)))
        return rows if self.transform is None else [self.transform(row) for row in rows]

    def shard(self, num_shards: int, index: int) -> Subset[Any]:
        """One of several contiguous parts of nearly equal length, which together are the whole.

        For data that each rank reads as its own; a DistributedSampler over the whole dataset reads only
        its rank's rows as well, and its place in an epoch does not depend on the number of ranks.
        """
        count = require_count("num_shards", num_shards, 1)
        if require_count("index", index, 0) >= count:
            raise ValueError(f"shard {index} is not one of {count}: they count from 0")
        begin, end = (len(self) * part // count for part in (index, index + 1))
        return Subset(self, range(begin, end))
