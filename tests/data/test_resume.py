"""Places in an epoch: saved as JSON, the same on every rank, and good for any other number of ranks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distgrad as dg
from distgrad.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)
from tests.data.readers import Noisy, Part

OPTIONS = [{}, {"num_workers": 2}, {"num_workers": 3, "prefetch_factor": 4, "persistent_workers": True}]


def loaders(n: int, ranks: int, batch: int, shuffle: bool = True, epoch: int = 0, **options: Any) -> list[DataLoader]:
    data = TensorDataset(dg.arange(n))
    found = []
    for rank in range(ranks):
        sampler = DistributedSampler(data, ranks, rank, shuffle, seed=7, pad=False)
        sampler.set_epoch(epoch)
        found.append(DataLoader(data, batch, sampler=sampler, **options))
    return found


def read(iterators: list[Iterator], batches: int | None = None) -> list[list[int]]:
    """What all ranks read in lock-step, `batches` of them or all: the samples of each global batch."""
    found = []
    while batches is None or len(found) < batches:
        step = [next(iterator, None) for iterator in iterators]
        if all(batch is None for batch in step):
            break
        found.append([i for batch in step if batch is not None for i in batch[0].tolist()])
    return found


def flat(batches: list[list[int]]) -> list[int]:
    return [i for batch in batches for i in batch]


@settings(max_examples=300, deadline=None)
@given(n=st.integers(0, 60), batch=st.integers(1, 5), stops=st.lists(st.integers(0, 6), max_size=3),
       ranks=st.lists(st.integers(1, 8), min_size=4, max_size=4), shuffle=st.booleans(), epoch=st.integers(0, 2))
def test_every_sample_comes_once_whatever_the_ranks_and_stops(n: int, batch: int, stops: list[int], ranks: list[int],
                                                              shuffle: bool, epoch: int) -> None:
    seen: list[int] = []
    state = None
    for size, stop in itertools.zip_longest(ranks[:len(stops) + 1], stops):
        parts = loaders(n, size, batch, shuffle, epoch)
        if state is not None:
            for part in parts:
                part.load_state_dict(json.loads(state))
        seen += flat(read([iter(part) for part in parts], stop))
        states = {json.dumps(part.state_dict()) for part in parts}
        assert len(states) == 1, "the same on every rank"
        state = states.pop()
        assert json.loads(state)["consumed"] == len(seen)
    assert sorted(seen) == list(range(n))
    whole = flat(read([iter(loaders(n, 1, 1, shuffle, epoch)[0])]))
    assert Counter(seen) == Counter(whole)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 5), stop=st.integers(0, 5), drop_last=st.booleans(),
       batch=st.integers(1, 3))
def test_the_same_ranks_go_on_with_the_batches_they_would_have_had(n: int, size: int, stop: int, drop_last: bool,
                                                                   batch: int) -> None:
    """With torch's padding, and with drop_last, too."""
    def part(rank: int) -> DataLoader:
        return DataLoader(Noisy(n), batch, sampler=DistributedSampler(n, size, rank, drop_last=drop_last))

    for rank in range(size):
        loader = part(rank)
        whole = [repr(b) for b in loader]
        first = [repr(b) for b in itertools.islice(loader, stop)]
        other = part(rank)
        other.load_state_dict(loader.state_dict())
        assert first + [repr(b) for b in other] == whole, "random numbers of the samples included"
        assert [repr(b) for b in other] == whole, "the pass after it is a whole one"


@pytest.mark.parametrize("options", OPTIONS)
def test_what_was_read_ahead_is_not_consumed(options: dict) -> None:
    parts = loaders(40, 2, 4, **options)
    iterators = [iter(part) for part in parts]
    assert parts[0].state_dict()["consumed"] == 0
    seen = read(iterators, 3)
    assert parts[0].state_dict() == parts[1].state_dict() == parts[0].sampler.state_dict()
    state = json.loads(json.dumps(parts[0].state_dict()))
    assert state == {"epoch": 0, "seed": 7, "shuffle": True, "consumed": 24, "length": 40}
    seen += read(iterators)
    whole = loaders(40, 4, 2)
    for part in whole:
        part.load_state_dict(state)
    assert list(map(sorted, seen[3:])) == list(map(sorted, read([iter(part) for part in whole]))), \
        "the same global batches on four ranks"
    for part in parts:
        assert part.state_dict()["consumed"] == 40


def test_a_finished_epoch_and_the_next() -> None:
    loader, = loaders(10, 1, 3)
    read([iter(loader)])
    state = loader.state_dict()
    other, = loaders(10, 1, 3)
    other.load_state_dict(state)
    assert other.state_dict() == state and len(other) == 4
    other.sampler.set_epoch(state["epoch"])
    assert read([iter(other)]) == [], "nothing is left of it"
    other.sampler.set_epoch(1)
    assert other.state_dict()["consumed"] == 0
    loader.sampler.set_epoch(1)
    assert read([iter(other)]) == read([iter(loader)]) != read([iter(loaders(10, 1, 3)[0])])
    loader.sampler.set_epoch(2)
    other.load_state_dict(state)
    other.sampler.set_epoch(2)
    assert len(flat(read([iter(other)]))) == 10, "another epoch begins at its beginning"


def test_a_sampler_alone_counts_what_it_yielded() -> None:
    sampler = DistributedSampler(10, 2, 1, shuffle=False)
    iterator = iter(sampler)
    assert [next(iterator) for _ in range(3)] == [1, 3, 5] and sampler.state_dict()["consumed"] == 6
    other = DistributedSampler(10, 3, 0, shuffle=False)
    other.load_state_dict(sampler.state_dict())
    assert list(other) == [6, 9] and list(other) == [0, 3, 6, 9]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("order", [
    {"shuffle": True}, {"shuffle": True, "own": True}, {}, {"sampler": RandomSampler(range(23), True, 30)},
    {"batch_size": None, "shuffle": True}, {"drop_last": True, "shuffle": True}, {"batch_sampler": [[3, 1], [2], [5]]},
    {"sampler": SequentialSampler(range(9))}, {"sampler": [5, 2, 8, 1, 0, 3]},
])
def test_one_process_goes_on_where_it_was(order: dict, options: dict) -> None:
    """Two passes after the stop are the same as without it, the random numbers of the samples too."""
    order = {"batch_size": 4, **order} if "batch_sampler" not in order else order
    own = order.pop("own", False)

    def make() -> DataLoader:
        return DataLoader(Noisy(23), **order, **options, generator=dg.Generator(3) if own else None)

    dg.manual_seed(1)
    loader = make()
    for _ in loader:
        pass
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state, stream = json.loads(json.dumps([loader.state_dict(), dg.get_rng_state()]))
    rest = [*map(repr, iterator)]
    after = [repr(batch) for batch in loader]
    dg.manual_seed(2)
    other = make()
    other.load_state_dict(state)
    dg.set_rng_state(stream)
    assert [repr(batch) for batch in other] == rest and rest != after
    assert [repr(batch) for batch in other] == after


class Letters(Sampler[int]):
    """A sampler that knows nothing of places."""

    def __iter__(self) -> Iterator[int]:
        return iter([4, 2, 0, 1, 3])


def test_orders_that_know_no_place_are_read_again() -> None:
    loader = DataLoader(Noisy(5), 2, sampler=Letters(), collate_fn=lambda samples: [i for i, _ in samples])
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(loader.state_dict())
    assert list(loader) == [[0, 1], [3]] and list(loader) == [[4, 2], [0, 1], [3]]


@pytest.mark.parametrize("workers", [0, 2])
def test_iterable_datasets_are_read_again(workers: int) -> None:
    loader = DataLoader(Part(20), 3, num_workers=workers)
    whole = [batch.tolist() for batch in loader]
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    other = DataLoader(Part(20), 3, num_workers=workers)
    other.load_state_dict(state)
    assert [batch.tolist() for batch in other] == whole[3:] and other.state_dict()["batches"] == len(whole)
    if workers:
        with pytest.raises(ValueError, match="2 workers took turns"):
            DataLoader(Part(20), 3, num_workers=3).load_state_dict(state)


def test_reading_does_not_disturb_other_random_numbers() -> None:
    def numbers(reads: bool) -> float:
        dg.manual_seed(4)
        if reads:
            list(DataLoader(Noisy(4), 2))
            list(DataLoader(Noisy(4), sampler=DistributedSampler(4, 1, 0)))
        return dg.rand(1).item()

    assert numbers(True) == numbers(False)


GOOD = {"epoch": 1, "seed": 0, "shuffle": True, "consumed": 4, "length": 10}


@pytest.mark.parametrize("state, error, text", [
    ([1], TypeError, "a dictionary, got list"),
    ({}, KeyError, "epoch"),
    ({**GOOD, "epoch": "1"}, TypeError, "epoch is a whole number"),
    ({**GOOD, "consumed": -1}, ValueError, "consumed is at least 0"),
    ({**GOOD, "consumed": 11}, ValueError, "11 of 10 samples"),
    ({**GOOD, "length": 9}, ValueError, "among 9 samples, and here are 10"),
    ({**GOOD, "shuffle": False}, ValueError, "shuffle=False"),
    ({**GOOD, "shuffle": 1}, TypeError, "shuffle is a bool"),
])
def test_foreign_states_are_refused_and_change_nothing(state: Any, error: type[Exception], text: str) -> None:
    sampler = DistributedSampler(10, 2, 0)
    before = sampler.state_dict()
    with pytest.raises(error, match=text):
        DataLoader(Noisy(10), sampler=sampler).load_state_dict(state)
    assert sampler.state_dict() == before and len(list(sampler)) == 5


def test_states_of_one_process_are_checked_too() -> None:
    random = DataLoader(Noisy(10), shuffle=True, generator=dg.Generator(1))
    with pytest.raises(KeyError, match="generator"):
        random.load_state_dict(DataLoader(Noisy(10), shuffle=True).state_dict())
    with pytest.raises(KeyError, match="batches"):
        DataLoader(Part(3)).load_state_dict({"pass": 0})
    assert issubclass(Part, IterableDataset)


def test_two_loops_over_one_loader_keep_apart() -> None:
    """The place is that of the latest; the other goes on with the batches it would have had."""
    loader, = loaders(12, 1, 2)
    whole = read([iter(loader)])
    loader.load_state_dict({**loader.state_dict(), "consumed": 4})
    outer = iter(loader)
    assert read([outer], 1) == whole[2:3] and loader.state_dict()["consumed"] == 6
    inner = iter(loader)
    assert read([inner], 1) == whole[:1] and loader.state_dict()["consumed"] == 2
    assert read([outer]) == whole[3:] and loader.state_dict()["consumed"] == 2
    assert read([inner], 1) == whole[1:2]
    assert loader.state_dict()["consumed"] == 4


def test_a_batch_sampler_of_the_users_own_is_counted_by_batches() -> None:
    class Backwards(BatchSampler):
        def __iter__(self) -> Iterator[list[int]]:
            return iter([batch[::-1] for batch in super().__iter__()])

    loader = DataLoader(TensorDataset(dg.arange(5)), batch_sampler=Backwards(SequentialSampler(range(5)), 2, False))
    assert read([iter(loader)], 1) == [[1, 0]]
    state = loader.state_dict()
    assert state["batches"] == 1 and "consumed" not in state
    loader.load_state_dict(state)
    assert read([iter(loader)]) == [[3, 2], [4]]
