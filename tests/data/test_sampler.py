"""Samplers: orders, batches, and what each of several replicas reads."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import distgrad as dg
from distgrad.data import BatchSampler, DistributedSampler, RandomSampler, Sampler, SequentialSampler

TEN = range(10)


def test_sequential_and_random() -> None:
    assert list(SequentialSampler(TEN)) == list(TEN)
    sampler = RandomSampler(TEN, generator=dg.Generator(0))
    first, second = list(sampler), list(sampler)
    assert sorted(first) == sorted(second) == list(TEN)
    assert first != second, "another order each time"
    assert list(RandomSampler(TEN, generator=dg.Generator(0))) == first
    assert list(RandomSampler(range(1))) == [0]


def test_random_follows_the_contexts_seed() -> None:
    dg.manual_seed(5)
    first = list(RandomSampler(TEN))
    dg.manual_seed(5)
    assert list(RandomSampler(TEN)) == first


def test_random_counts() -> None:
    more = list(RandomSampler(TEN, num_samples=25))
    assert len(more) == 25 and max(Counter(more).values()) == 3 and min(Counter(more).values()) == 2
    drawn = list(RandomSampler(TEN, replacement=True, num_samples=1000))
    assert set(drawn) == set(TEN) and len(RandomSampler(TEN, True, 1000)) == len(drawn) == 1000


@pytest.mark.parametrize("drop_last, batches", [(False, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
                                                (True, [[0, 1, 2, 3], [4, 5, 6, 7]])])
def test_batches(drop_last: bool, batches: list[list[int]]) -> None:
    sampler = BatchSampler(SequentialSampler(TEN), 4, drop_last)
    assert list(sampler) == batches
    assert len(sampler) == len(batches)


@given(n=st.integers(0, 40), size=st.integers(1, 7), drop_last=st.booleans(), shuffle=st.booleans())
def test_replicas_cover_the_data(n: int, size: int, drop_last: bool, shuffle: bool) -> None:
    parts = [list(DistributedSampler(n, size, rank, shuffle, drop_last=drop_last)) for rank in range(size)]
    assert {len(part) for part in parts} == {len(DistributedSampler(n, size, 0, drop_last=drop_last))}
    seen = Counter(index for part in parts for index in part)
    if drop_last:
        assert sum(seen.values()) == n // size * size and set(seen.values()) <= {1}
    else:
        assert set(seen) == set(range(n)) and (n < size or max(seen.values(), default=0) <= 2)
    order = [part[i] for i in range(len(parts[0])) for part in parts]
    if not shuffle:
        assert order[:n] == list(range(n))[:len(order)]
        assert order[n:] == [i % n for i in range(len(order) - n)] if n else not order


@pytest.mark.parametrize("shuffle", [False, True])
def test_global_batches_do_not_depend_on_the_number_of_replicas(shuffle: bool) -> None:
    def batches(size: int) -> list[set[int]]:
        parts = []
        for rank in range(size):
            sampler = DistributedSampler(100, size, rank, shuffle, seed=3, drop_last=True)
            sampler.set_epoch(2)
            parts.append(list(BatchSampler(sampler, 8 // size, True)))
        return [set().union(*together) for together in zip(*parts, strict=True)]

    assert len(batches(1)) == 12
    assert batches(1) == batches(2) == batches(4) == batches(8)


def test_the_order_follows_epoch_and_seed() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = DistributedSampler(50, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, orders))) == 9
    assert order(1, 2) == order(1, 2)


def test_a_dataset_that_grows_is_measured_again() -> None:
    data = [1, 2]
    sampler = DistributedSampler(data, shuffle=False)
    data.append(3)
    assert list(sampler) == [0, 1, 2]


@pytest.mark.parametrize("make, error, text", [
    (lambda: DistributedSampler(10, 0), ValueError, "num_replicas is at least 1"),
    (lambda: DistributedSampler(10, 2, 2), ValueError, "rank 2 is not one of 2"),
    (lambda: DistributedSampler(10, 2, -1), ValueError, "rank is at least 0"),
    (lambda: DistributedSampler(10, 2.0), TypeError, "num_replicas is a whole number"),
    (lambda: DistributedSampler(-1), ValueError, "length of the dataset"),
    (lambda: DistributedSampler(10, seed=-1), ValueError, "seed"),
    (lambda: DistributedSampler(10).set_epoch(1.5), TypeError, "epoch"),
    (lambda: BatchSampler(TEN, 0, False), ValueError, "batch_size is at least 1"),
    (lambda: BatchSampler(TEN, True, False), TypeError, "batch_size is a whole number"),
    (lambda: BatchSampler(TEN, 2, "no"), TypeError, "drop_last"),
    (lambda: RandomSampler(TEN, num_samples=0), ValueError, "num_samples is at least 1"),
    (lambda: RandomSampler([]), ValueError, "empty"),
    (lambda: RandomSampler([], num_samples=3), ValueError, "empty"),
    (lambda: RandomSampler(TEN, 1), TypeError, "replacement"),
    (lambda: iter(Sampler()), NotImplementedError, "__iter__"),
])
def test_refusals(make, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
