"""Datasets: samples by index, or one after the other, and parts and sums of them.

They know nothing of order, batches or ranks; a sampler decides the order and the loader makes batches.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, Generic, TypeVar

import numpy as np

from .._tensor.creation import from_numpy
from ..backend.random import Generator, default_generator
from ..graph.base import TensorBase
from .pin import room
from .rows import Parallel, Rows, as_indices, read_rows

__all__ = ["ChainDataset", "ConcatDataset", "Dataset", "IterableDataset", "StackDataset", "Subset", "TensorDataset",
           "random_split"]

T = TypeVar("T", covariant=True)


class Dataset(Generic[T]):
    """Samples by index: a subclass defines `__getitem__(index)` and `__len__()`.

    It may define `__getitems__(indices)` too, which gives the samples at many indices as one sequence:
    the loader then reads each batch by one call.
    """

    def __getitem__(self, index: int) -> T:
        raise NotImplementedError(f"{type(self).__name__} is a Dataset without __getitem__")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T]):
    """Samples one after the other: a subclass defines `__iter__()`, and `__len__()` if it knows it.

    With workers each of them reads a copy of the dataset; `__iter__` asks `get_worker_info()` which part
    is its own, or every sample comes once from each worker.
    """

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError(f"{type(self).__name__} is an IterableDataset without __iter__")

    def __add__(self, other: Dataset[Any]) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Any, ...]]):
    """Sample i is (t[i] for each tensor t).

    Args:
        tensors: one or more tensors of equal length in their first dimension.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: no tensors, 0-d tensors, or different lengths.
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise ValueError("TensorDataset needs at least one tensor")
        for position, tensor in enumerate(tensors):
            if not isinstance(tensor, TensorBase):
                raise TypeError(f"TensorDataset takes tensors, argument {position} is a {type(tensor).__name__}")
            if not tensor.shape:
                raise ValueError(f"TensorDataset indexes the first dimension; tensor {position} has none")
        lengths = [tensor.shape[0] for tensor in tensors]
        if len(set(lengths)) > 1:
            raise ValueError(f"TensorDataset needs tensors of one length, got {lengths}")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Sequence[int]) -> Parallel:
        """The samples at these indices, by one indexing a tensor; copies."""
        found = np.asarray(indices)
        return Parallel([Rows(_take(tensor, found)) for tensor in self.tensors])

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])


class StackDataset(Dataset[Any]):
    """Datasets side by side: sample i is (d[i] for each dataset d), or a dict of them where they have names.

    Args:
        args, kwargs: datasets of equal length, all without names or all with names.

    Raises:
        ValueError: none, some with and some without names, or different lengths.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if bool(args) == bool(kwargs):
            raise ValueError("StackDataset takes datasets, all of them with names or all without; got "
                             f"{len(args)} without and {len(kwargs)} with")
        self.datasets: tuple[Any, ...] | dict[str, Any] = args or kwargs
        self._names = tuple(kwargs) or None
        self._parts = args or tuple(kwargs.values())
        lengths = [_length(part) for part in self._parts]
        if len(set(lengths)) > 1:
            raise ValueError(f"StackDataset needs datasets of one length, got {lengths}")

    def __getitem__(self, index: int) -> Any:
        values = tuple(part[index] for part in self._parts)
        return values if self._names is None else dict(zip(self._names, values))

    def __getitems__(self, indices: Sequence[int]) -> Parallel:
        """The samples at these indices, by one call of each dataset that offers it."""
        return Parallel([read_rows(part, indices) for part in self._parts], self._names)

    def __len__(self) -> int:
        return len(self._parts[0])


class ConcatDataset(Dataset[Any]):
    """Several datasets one after the other.

    Raises:
        ValueError: there are none.
        TypeError: one of them is an IterableDataset.
    """

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        for position, dataset in enumerate(self.datasets):
            if isinstance(dataset, IterableDataset):
                raise TypeError(f"ConcatDataset indexes its datasets; number {position} is an IterableDataset")
        self.cumulative_sizes = list(accumulate(map(_length, self.datasets)))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        which, place = self._place(index)
        return self.datasets[which][place]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """The samples at these indices, by one call of each dataset that has some of them and offers it."""
        places: dict[int, list[int]] = {}  # which dataset -> indices in it
        order: list[tuple[int, int]] = []  # which dataset, which of its samples here
        for index in indices:
            which, place = self._place(index)
            mine = places.setdefault(which, [])
            order.append((which, len(mine)))
            mine.append(place)
        found = {which: read_rows(self.datasets[which], mine) for which, mine in places.items()}
        return next(iter(found.values())) if len(found) == 1 else [found[which][i] for which, i in order]

    def _place(self, index: int) -> tuple[int, int]:
        """Which dataset, and the index in it."""
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"index {index} is outside of {len(self)} samples")
        which = bisect_right(self.cumulative_sizes, place)
        return which, place - (self.cumulative_sizes[which - 1] if which else 0)


class ChainDataset(IterableDataset[Any]):
    """Several IterableDatasets one after the other.

    Raises:
        TypeError: one of them has indices instead.
    """

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets: list[Any] = list(datasets)
        for position, dataset in enumerate(self.datasets):
            if not isinstance(dataset, IterableDataset):
                raise TypeError(f"ChainDataset chains IterableDatasets; number {position} is a "
                                f"{type(dataset).__name__}")

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.datasets)

    def __len__(self) -> int:
        return sum(map(_length, self.datasets))


class Subset(Dataset[T]):
    """The samples of another dataset at given indices, in that order."""

    def __init__(self, dataset: Dataset[T], indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: int) -> T:
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[T]:
        """The samples at these indices, by one call of the dataset if it offers it."""
        return read_rows(self.dataset, [self.indices[index] for index in indices])

    def __len__(self) -> int:
        return len(self.indices)


def random_split(dataset: Dataset[T], lengths: Sequence[int | float],
                 generator: Generator | None = None) -> list[Subset[T]]:
    """Random parts that do not overlap and together are the whole.

    Args:
        lengths: how many samples each part has, or fractions that sum to 1; what rounding down
            leaves over goes to the parts one by one, from the first.
        generator: the stream that decides; default the context's.

    Raises:
        ValueError: the lengths do not sum to the whole, or one is negative.
    """
    total = _length(dataset)
    if any(length < 0 for length in lengths):
        raise ValueError(f"random_split: lengths are not negative, got {list(lengths)}")
    if all(isinstance(length, int | np.integer) for length in lengths):
        counts = [int(length) for length in lengths]
    elif math.isclose(sum(lengths), 1.0, rel_tol=1e-9):
        counts = [math.floor(total * length) for length in lengths]
        for extra in range(total - sum(counts)):
            counts[extra % len(counts)] += 1
    else:
        raise ValueError(f"random_split: fractions sum to 1, got {list(lengths)} with the sum {sum(lengths)}")
    if sum(counts) != total:
        raise ValueError(f"random_split: the lengths {counts} sum to {sum(counts)}, the dataset has {total} samples")
    order = (generator or default_generator()).numpy.permutation(total).tolist()
    ends = list(accumulate(counts))
    return [Subset(dataset, order[end - count:end]) for count, end in zip(counts, ends)]


def _take(tensor: Any, indices: np.ndarray) -> Any:
    """Rows of a tensor. Where no graph is to be recorded, the copy is all that there is to do."""
    if tensor.requires_grad or not isinstance(tensor.array, np.ndarray):
        return tensor[indices]
    array = tensor.array
    out = room((len(indices), *array.shape[1:]), array.dtype)
    if out is None:
        return from_numpy(array.take(indices, 0))
    return from_numpy(array.take(as_indices(indices, len(array)), 0, out=out, mode="clip"))  # other modes would buffer


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError:
        raise TypeError(f"{type(dataset).__name__} has no length: define __len__") from None
