"""Samplers: orders, batches, and what each of several replicas reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import distgrad as dg
from distgrad.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

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


@pytest.mark.parametrize("pad", [True, False])
@given(n=st.integers(0, 40), size=st.integers(1, 8))
def test_without_padding_every_sample_comes_once(pad: bool, n: int, size: int) -> None:
    parts = [DistributedSampler(n, size, rank, pad=pad) for rank in range(size)]
    found = [list(part) for part in parts]
    assert [len(part) for part in parts] == list(map(len, found))
    if not pad:
        assert sorted(i for part in found for i in part) == list(range(n))
        assert max(map(len, found)) - min(map(len, found)) <= 1 and found == sorted(found, key=len, reverse=True)


def test_replicas_are_those_of_the_world_or_of_the_launcher() -> None:
    def replicas(rank: int) -> tuple[int, int, list[int]]:
        sampler = DistributedSampler(6, shuffle=False)
        return sampler.num_replicas, sampler.rank, list(sampler)

    assert dg.simulate(2)(replicas) == [(2, 0, [0, 2, 4]), (2, 1, [1, 3, 5])]
    assert replicas(0) == (1, 0, list(range(6)))
    assert (DistributedSampler(6, 3).rank, DistributedSampler(6, rank=0).num_replicas) == (0, 1)
    script = "from distgrad.data import DistributedSampler as D; s = D(6); print(s.num_replicas, s.rank)"
    launchers = {"Hydra": {"PMI_RANK": "2", "PMI_SIZE": "5"}, "PMIx": {"PMIX_RANK": "1"}, "none": {}}
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(("OMPI", "PMI", "PALS", "FLUX", "SLURM"))}
    found = {}
    for name, variables in launchers.items():
        found[name] = subprocess.run([sys.executable, "-c", script], env=environment | variables, capture_output=True,
                                     text=True, timeout=60)
    assert found["Hydra"].stdout == "5 2\n" and found["none"].stdout == "1 0\n"
    assert found["PMIx"].returncode == 1 and "pass num_replicas and rank" in found["PMIx"].stderr


def test_weighted_and_subset() -> None:
    sampler = WeightedRandomSampler([0, 1, 3], 4000, generator=dg.Generator(0))
    seen = Counter(sampler)
    assert len(sampler) == 4000 and seen[0] == 0 and 2.5 < seen[2] / seen[1] < 3.5
    assert sorted(WeightedRandomSampler([1, 0, 1], 2, replacement=False)) == [0, 2]
    part = SubsetRandomSampler([7, 3, 5], dg.Generator(2))
    orders = {tuple(part) for _ in range(50)}
    assert len(part) == 3 and len(orders) == 6 and set(map(frozenset, orders)) == {frozenset([3, 5, 7])}


@pytest.mark.parametrize("make, text", [
    (lambda: WeightedRandomSampler([0, 0], 1), "not all 0"), (lambda: WeightedRandomSampler([1, -1], 1), "at least 0"),
    (lambda: WeightedRandomSampler([1, float("nan")], 1), "at least 0"),
    (lambda: WeightedRandomSampler([1, 0], 2, False), "only 1 weights"),
    (lambda: WeightedRandomSampler([1], 0), "num_samples is at least 1"),
])
def test_weights_are_checked(make, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
