"""Datasets: samples by index, or one after the other, and parts and sums of them.

They know nothing of order, batches or ranks; a sampler decides the order and the loader makes batches.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar

from ..backend.random import Generator, default_generator
from ..graph.base import TensorBase

__all__ = ["ConcatDataset", "Dataset", "IterableDataset", "Subset", "TensorDataset", "random_split"]

T = TypeVar("T", covariant=True)


class Dataset(Generic[T]):
    """Samples by index: a subclass defines `__getitem__(index)` and `__len__()`."""

    def __getitem__(self, index: int) -> T:
        raise NotImplementedError(f"{type(self).__name__} is a Dataset without __getitem__")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T]):
    """Samples one after the other: a subclass defines `__iter__()`, and `__len__()` if it knows it."""

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError(f"{type(self).__name__} is an IterableDataset without __iter__")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset:
        raise TypeError("an IterableDataset has no indices, so it cannot be concatenated with +")


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

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])


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
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"index {index} is outside of {len(self)} samples")
        which = bisect_right(self.cumulative_sizes, place)
        return self.datasets[which][place - (self.cumulative_sizes[which - 1] if which else 0)]


class Subset(Dataset[T]):
    """The samples of another dataset at given indices, in that order."""

    def __init__(self, dataset: Dataset[T], indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: int) -> T:
        return self.dataset[self.indices[index]]

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
    if all(isinstance(length, int) for length in lengths):
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


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError:
        raise TypeError(f"{type(dataset).__name__} has no length: define __len__") from None
