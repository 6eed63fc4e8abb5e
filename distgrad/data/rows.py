"""Many samples at once: the batched read of a dataset, and samples that already lie side by side.

`__getitems__(indices)` of a dataset gives its samples as one sequence. Where that sequence is `Rows` or
`Parallel`, `default_collate` takes the batch from it without looking at single samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .pin import room

__all__ = ["Parallel", "Rows", "as_indices", "read_rows", "take_rows"]


class Rows(Sequence[Any]):
    """Samples that are the rows of one tensor."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch  # (samples, *shape)

    def __len__(self) -> int:
        return int(self.batch.shape[0])

    def __getitem__(self, index: Any) -> Any:
        return self.batch[index]


class Parallel(Sequence[Any]):
    """Samples that are put together of one element of each part, as tuples, or as dicts where there are names."""

    def __init__(self, parts: Sequence[Sequence[Any]], names: Sequence[Any] | None = None) -> None:
        self.parts = parts
        self.names = names

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: Any) -> Any:
        values = [part[index] for part in self.parts]
        return tuple(values) if self.names is None else dict(zip(self.names, values))


@lru_cache
def _reads_many(kind: type) -> bool:
    """Whether `__getitems__` says what `__getitem__` says: a subclass that defines the latter alone has changed it."""
    first = next((base for base in kind.__mro__ if {"__getitem__", "__getitems__"} & vars(base).keys()), object)
    return "__getitems__" in vars(first)


def read_rows(dataset: Any, indices: Sequence[Any]) -> Sequence[Any]:
    """The samples at these indices, in one call where the dataset offers it."""
    if len(indices) and _reads_many(type(dataset)):  # type: ignore[arg-type]
        found = dataset.__getitems__(indices)
        if len(found) != len(indices):
            raise ValueError(f"{type(dataset).__name__}.__getitems__ gave {len(found)} samples for {len(indices)} "
                             "indices")
        return found
    return [dataset[index] for index in indices]


def as_indices(indices: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
    """Indices as an int64 array in [0, length); negative ones count from the end.

    Raises:
        TypeError: they are not whole numbers.
        IndexError: one lies outside.
    """
    found = np.asarray(indices)
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"indices are whole numbers, got {found.dtype}")
    found = found.astype(np.int64, copy=False)
    if found.size and (found.min() < 0 or found.max() >= length):
        wrong = found[(found < -length) | (found >= length)]
        if wrong.size:
            raise IndexError(f"index {wrong[0]} is outside of {length} samples")
        found = np.where(found < 0, found + length, found)
    return found


def take_rows(array: Any, indices: np.ndarray) -> np.ndarray:
    """A copy of the rows at these indices (from `as_indices`); of neighbours it is one contiguous read."""
    begin = int(indices[0]) if len(indices) else 0
    near = len(indices) and int(indices[-1]) - begin == len(indices) - 1 and (np.diff(indices) == 1).all()
    out = room((len(indices), *array.shape[1:]), array.dtype)
    if out is None:
        return np.array(array[begin:begin + len(indices)]) if near else np.asarray(array[indices])
    if near:
        out[...] = array[begin:begin + len(indices)]
    else:
        np.take(array, indices, 0, out, "clip")  # they are in range; other modes would buffer
    return out
