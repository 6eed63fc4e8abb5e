"""Datasets: samples by index, parts and sums of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import distgrad as dg
from distgrad.data import (
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)


class Squares(Dataset[int]):
    def __init__(self, n: int, first: int = 0) -> None:
        self.n, self.first = n, first

    def __getitem__(self, index: int) -> int:
        return (self.first + index) ** 2

    def __len__(self) -> int:
        return self.n


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_tensor_dataset() -> None:
    x, y = dg.arange(12).reshape(4, 3), dg.arange(4)
    dataset = TensorDataset(x, y)
    assert len(dataset) == 4
    row, label = dataset[2]
    assert row.tolist() == [6, 7, 8] and label.item() == 2
    assert dataset[-1][1].item() == 3
    with pytest.raises(IndexError):
        dataset[4]


@pytest.mark.parametrize("arguments, error, text", [
    ((), ValueError, "at least one"),
    ((np.ones(3),), TypeError, "argument 0 is a ndarray"),
    (([1, 2], dg.ones(2)), TypeError, "argument 0 is a list"),
    ((dg.ones(2), dg.ones(3)), ValueError, r"\[2, 3\]"),
    ((dg.tensor(1.0),), ValueError, "tensor 0 has none"),
])
def test_tensor_dataset_refuses(arguments: tuple, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        TensorDataset(*arguments)


def test_concatenation() -> None:
    both = Squares(3) + Squares(2, first=10)
    assert isinstance(both, ConcatDataset)
    assert [both[i] for i in range(len(both))] == [0, 1, 4, 100, 121]
    assert (both[-1], both[-5]) == (121, 0)
    for index in (5, -6):
        with pytest.raises(IndexError, match="outside of 5"):
            both[index]
    assert [ConcatDataset([Squares(0), Squares(2), Squares(0), Squares(1)])[i] for i in range(3)] == [0, 1, 0]


def test_concatenation_refuses() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset([])
    with pytest.raises(TypeError, match="number 1"):
        ConcatDataset([Squares(1), Stream()])
    with pytest.raises(TypeError):
        Stream() + Squares(1)


def test_chains() -> None:
    chain = Stream() + Stream()
    assert isinstance(chain, ChainDataset) and list(chain) == [0, 1, 2, 0, 1, 2]
    with pytest.raises(TypeError, match="has no length"):
        len(chain)
    with pytest.raises(TypeError, match="number 1 is a Squares"):
        ChainDataset([Stream(), Squares(1)])


def test_a_dataset_of_tensors_that_require_gradients() -> None:
    w = dg.ones(4, requires_grad=True)
    batch, = next(iter(DataLoader(TensorDataset(w), batch_sampler=[[1, 1, 3]])))
    batch.sum().backward()
    assert w.grad.tolist() == [0, 2, 0, 1]


def test_subset() -> None:
    part = Subset(Squares(10), [3, 1])
    assert [part[0], part[1], part[-1], len(part)] == [9, 1, 1, 2]


@pytest.mark.parametrize("lengths, counts", [([7, 3], [7, 3]), ([10, 0], [10, 0]), ([0.5, 0.5], [5, 5]),
                                             ([0.25, 0.25, 0.5], [3, 2, 5]), ([0.34, 0.33, 0.33], [4, 3, 3])])
def test_random_split_covers_everything_once(lengths: list, counts: list[int]) -> None:
    parts = random_split(Squares(10), lengths, dg.Generator(1))
    assert [len(part) for part in parts] == counts
    assert sorted(i for part in parts for i in part.indices) == list(range(10))
    again = random_split(Squares(10), lengths, dg.Generator(1))
    assert [part.indices for part in parts] == [part.indices for part in again]
    other = random_split(Squares(10), lengths, dg.Generator(2))
    assert [part.indices for part in parts] != [part.indices for part in other]


@pytest.mark.parametrize("lengths, text", [([5, 4], "sum to 9"), ([0.5, 0.4], "sum to 1"), ([11, -1], "negative")])
def test_random_split_refuses(lengths: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        random_split(Squares(10), lengths)


def test_unfinished_subclasses_say_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="__getitem__"):
        Dataset()[0]
    with pytest.raises(NotImplementedError, match="__iter__"):
        iter(IterableDataset())
    with pytest.raises(TypeError, match="define __len__"):
        random_split(Dataset(), [1])
