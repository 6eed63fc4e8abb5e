"""DataLoader: batches in order, with and without threads, and no thread left."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator

import numpy as np
import pytest

import distgrad as dg
from distgrad.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    get_worker_info,
)
from tests.data.readers import Part, Whole, fail_to_begin, halve

WORKERS = pytest.mark.parametrize("workers", [0, 1, 3])


class Numbers(Dataset[int]):
    """0, 1, 2, ...; earlier ones take longer, so that threads finish out of order."""

    def __init__(self, n: int, broken: int | None = None, slow: float = 0.0) -> None:
        self.n, self.broken, self.slow = n, broken, slow
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        time.sleep(self.slow * (self.n - index))
        if index == self.broken:
            raise ZeroDivisionError(f"sample {index} is broken")
        return index


class Stream(IterableDataset[int]):
    def __init__(self, n: int, broken: int | None = None) -> None:
        self.n, self.broken = n, broken

    def __iter__(self) -> Iterator[int]:
        for i in range(self.n):
            if i == self.broken:
                raise ZeroDivisionError("the stream broke")
            yield i


class Measured(Stream):
    def __len__(self) -> int:
        return self.n


def read(loader: DataLoader) -> list:
    return [batch.tolist() for batch in loader]


def read_pairs(loader: DataLoader) -> list:
    return [batch[0].tolist() for batch in loader]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("distgrad-data")]


@WORKERS
def test_batches_come_in_order(workers: int) -> None:
    loader = DataLoader(Numbers(10, slow=0.001), 3, num_workers=workers)
    assert len(loader) == 4
    assert read(loader) == read(loader) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    short = DataLoader(Numbers(10), 3, num_workers=workers, drop_last=True)
    assert len(short) == 3 and read(short) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert not threads()


@WORKERS
def test_shuffling_follows_the_generator(workers: int) -> None:
    def order() -> list[list[int]]:
        return read(DataLoader(Numbers(20), 5, shuffle=True, generator=dg.Generator(7)))

    batches = order()
    assert sorted(i for batch in batches for i in batch) == list(range(20)) and batches == order()
    loader = DataLoader(Numbers(20), 5, shuffle=True)
    assert read(loader) != read(loader)


@WORKERS
def test_samplers(workers: int) -> None:
    assert read(DataLoader(Numbers(9), 2, sampler=[5, 3, 1], num_workers=workers)) == [[5, 3], [1]]
    loader = DataLoader(Numbers(9), batch_sampler=[[1], [2, 3]], num_workers=workers)
    assert read(loader) == [[1], [2, 3]] and len(loader) == 2
    assert list(DataLoader(Numbers(3), batch_size=None, num_workers=workers)) == [0, 1, 2]
    assert list(DataLoader(Numbers(0), 4, num_workers=workers)) == []
    assert list(DataLoader(Numbers(4), 2, collate_fn=sum, num_workers=workers)) == [1, 5]


@WORKERS
def test_iterable_datasets(workers: int) -> None:
    ours = [[0, 3], [1, 4], [2, 5], [6]] if workers == 3 else [[0, 1], [2, 3], [4, 5], [6]]
    assert read(DataLoader(Part(7), 2, num_workers=workers)) == ours, "workers take turns"
    assert read(DataLoader(Part(7), 2, num_workers=workers, drop_last=True)) == ours[:3]
    assert list(DataLoader(Part(3), None, num_workers=workers)) == [0, 1, 2]
    loader = DataLoader(Part(7), 2, num_workers=workers, persistent_workers=workers > 0)
    assert read(loader) == read(loader) == ours
    assert len(DataLoader(Measured(5), 2)) == 3 and len(DataLoader(Measured(5), 2, drop_last=True)) == 2
    assert len(DataLoader(Measured(5), None)) == 5
    with pytest.raises(TypeError):
        len(DataLoader(Stream(5), 2))
    seen = []
    with pytest.raises(ZeroDivisionError):
        for batch in DataLoader(Stream(9, broken=5), 2, num_workers=min(workers, 1)):
            seen.append(batch.tolist())
    assert seen == [[0, 1], [2, 3]]


def test_each_worker_has_its_own_copy_of_an_iterable_dataset() -> None:
    data = Whole(6)
    assert read(DataLoader(data, 2, num_workers=2, worker_init_fn=halve)) == [[0, 1], [3, 4], [2], [5]]
    assert (data.begin, data.end) == (0, 6), "the caller's is left alone"
    with pytest.warns(UserWarning, match="never called get_worker_info"):
        assert read(DataLoader(data, 6, num_workers=2)) == [list(range(6))] * 2
    assert get_worker_info() is None


def test_a_beginning_that_fails_is_raised_in_the_loop() -> None:
    with pytest.raises(FileNotFoundError, match="worker 0 finds nothing"):
        list(DataLoader(Numbers(4), num_workers=2, worker_init_fn=fail_to_begin))
    with pytest.raises(SystemExit):
        list(DataLoader(Numbers(4), num_workers=2, collate_fn=lambda samples: exit(2)))


@WORKERS
def test_a_stop_iteration_of_the_dataset_is_no_end(workers: int) -> None:
    class Ends(Numbers):
        def __getitem__(self, index: int) -> int:
            return next(iter(()))

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(DataLoader(Ends(3), num_workers=workers))


def test_persistent_threads_live_from_pass_to_pass() -> None:
    loader = DataLoader(Numbers(100), 1, num_workers=2, persistent_workers=True)
    for _ in loader:
        break
    assert len(threads()) == 2
    first = iter(loader)
    assert next(first).item() == 0, "what was read ahead for the pass before is dropped"
    assert [b.item() for b in loader] == list(range(100))
    assert list(first) == [], "another pass took its workers"
    del loader, first
    assert not threads()


def test_a_batch_that_takes_too_long() -> None:
    class Sleepy(Numbers):
        def __getitem__(self, index: int) -> int:
            time.sleep(0.5 if index == 1 else 0)
            return index

    with pytest.raises(RuntimeError, match=r"batch 1 did not come within 0\.1 s"):
        list(DataLoader(Sleepy(3), num_workers=1, timeout=0.1))
    assert not threads()


def test_many_samples_are_read_by_one_call() -> None:
    class Counting(TensorDataset):
        calls = 0

        def __getitems__(self, indices):
            Counting.calls += 1
            return super().__getitems__(indices)

    data = Counting(dg.arange(10))
    assert read_pairs(DataLoader(Subset(data, range(9, -1, -1)), 4)) == [[9, 8, 7, 6], [5, 4, 3, 2], [1, 0]]
    assert Counting.calls == 3
    samples = next(iter(DataLoader(data, 3, collate_fn=lambda samples: samples)))
    assert type(samples) is list, "what functions of the user's own are given"
    assert [type(sample) for sample in samples] == [tuple] * 3 and samples[2][0].item() == 2
    assert read_pairs(DataLoader(Counting(dg.arange(2)) + Counting(dg.arange(3)), 4)) == [[0, 1, 0, 1], [2]]

    class Few(Counting):
        def __getitems__(self, indices):
            return []

    with pytest.raises(ValueError, match="0 samples for 2 indices"):
        list(DataLoader(Few(dg.arange(4)), 2))


def test_stacked_datasets() -> None:
    x, y = TensorDataset(dg.arange(6)), Numbers(6)
    (xs, ys), *_ = DataLoader(StackDataset(x, y), 3)
    assert xs[0].tolist() == ys.tolist() == [0, 1, 2]
    found = next(iter(DataLoader(StackDataset(first=x, second=y), 2, shuffle=True)))
    assert set(found) == {"first", "second"} and found["first"][0].tolist() == found["second"].tolist()
    assert StackDataset(a=y)[4] == {"a": 4} and StackDataset(x, y)[1][1] == 1
    with pytest.raises(ValueError, match="one length"):
        StackDataset(x, Numbers(5))
    with pytest.raises(ValueError, match="with names or all without"):
        StackDataset(x, second=y)


@WORKERS
@pytest.mark.parametrize("as_subset", [False, True])
def test_tensor_datasets_give_what_stacking_gives(workers: int, as_subset: bool) -> None:
    class Plain(TensorDataset):
        """A subclass, which is read sample by sample."""

        def __getitem__(self, index):
            return super().__getitem__(index)

    tensors = dg.randn(7, 2, 3), dg.arange(7)
    data, plain = TensorDataset(*tensors), Plain(*tensors)
    if as_subset:
        data, plain = (Subset(Subset(d, [6, 5, 4, 3, 2]), (4, 0, 2)) for d in (data, plain))
    for fast, slow in zip(DataLoader(data, 2, num_workers=workers), DataLoader(plain, 2, num_workers=workers),
                          strict=True):
        assert type(fast) is type(slow) is list
        for a, b in zip(fast, slow, strict=True):
            assert a.dtype == b.dtype and np.array_equal(a.numpy(), b.numpy())
    batch = next(iter(DataLoader(data, 3)))
    batch[1][0] = 99
    assert 99 not in tensors[1].tolist()


@WORKERS
def test_exceptions_keep_their_traceback_and_end_the_threads(workers: int) -> None:
    data = Numbers(12, broken=5)
    seen = []
    with pytest.raises(ZeroDivisionError, match="sample 5 is broken") as caught:
        for batch in DataLoader(data, 2, num_workers=workers):
            seen.append(batch.tolist())
    assert seen == [[0, 1], [2, 3]], "what came before is delivered"
    text = "".join(traceback.format_exception(caught.value))
    assert "__getitem__" in text and "in DataLoader, batch 2, samples [4, 5]" in text
    assert not threads()


def test_leaving_early_ends_the_threads() -> None:
    data = Numbers(1000)
    loader = DataLoader(data, 1, num_workers=3, prefetch_factor=2)
    for _ in loader:
        assert threads()
        break
    assert not threads()
    assert len(data.read) <= 8, "reads ahead no further than asked"
    iterator = iter(loader)
    next(iterator)
    del iterator
    assert not threads()


def test_threads_work_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=10)

    class Meeting(Numbers):
        def __getitem__(self, index: int) -> int:
            meeting.wait()
            return index

    assert read(DataLoader(Meeting(6), 1, num_workers=3)) == [[i] for i in range(6)]


def test_random_numbers_do_not_depend_on_timing() -> None:
    class Noisy(Numbers):
        def __getitem__(self, index: int) -> dg.Tensor:
            time.sleep(0.001 * (index % 3))
            return dg.rand(2)

    def batches(workers: int) -> list:
        dg.manual_seed(11)
        return read(DataLoader(Noisy(12), 2, num_workers=workers))

    assert batches(3) == batches(3) == batches(2) == batches(0)
    numbers = np.array(batches(2))
    assert len(np.unique(numbers)) == numbers.size


def test_workers_see_the_callers_context() -> None:
    class Ranks(Numbers):
        def __getitem__(self, index: int) -> int:
            return dg.distributed.get_rank()

    found = dg.simulate(2)(lambda rank: read(DataLoader(Ranks(4), 2, num_workers=2)))
    assert found == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]


DATA = Numbers(4)


@pytest.mark.parametrize("make, error, text", [
    (lambda: DataLoader(DATA, 0), ValueError, "batch_size is at least 1"),
    (lambda: DataLoader(DATA, 2.0), TypeError, "batch_size is a whole number"),
    (lambda: DataLoader(DATA, num_workers=-1), ValueError, "num_workers is at least 0"),
    (lambda: DataLoader(DATA, num_workers=1, prefetch_factor=0), ValueError, "prefetch_factor is at least 1"),
    (lambda: DataLoader(DATA, prefetch_factor=2), ValueError, "num_workers above 0"),
    (lambda: DataLoader(DATA, persistent_workers=True), ValueError, "num_workers above 0"),
    (lambda: DataLoader(DATA, timeout=3), ValueError, "num_workers above 0"),
    (lambda: DataLoader(DATA, num_workers=1, timeout=-1), ValueError, "timeout is at least 0"),
    (lambda: DataLoader(DATA, num_workers=1, timeout="1"), TypeError, "timeout is a number"),
    (lambda: DataLoader(DATA, worker_init_fn=3), TypeError, "worker_init_fn"),
    (lambda: DataLoader(DATA, worker="fork"), ValueError, "'thread' or 'process'"),
    (lambda: DataLoader(DATA, pin_memory=1), TypeError, "pin_memory"),
    (lambda: DataLoader(DATA, sampler=3), TypeError, "sampler is an iterable"),
    (lambda: DataLoader(Numbers(0), shuffle=True), ValueError, "empty"),
    (lambda: DataLoader(DATA, shuffle=True, sampler=[1]), ValueError, "leave out shuffle"),
    (lambda: DataLoader(DATA, shuffle="yes"), TypeError, "shuffle is True or False"),
    (lambda: DataLoader(DATA, 2, batch_sampler=[[1]]), ValueError, "leave out batch_size"),
    (lambda: DataLoader(DATA, batch_sampler=[[1]], drop_last=True), ValueError, "drop_last"),
    (lambda: DataLoader(DATA, None, drop_last=True), ValueError, "makes no batches"),
    (lambda: DataLoader(DATA, drop_last=1), TypeError, "drop_last is True or False"),
    (lambda: DataLoader(DATA, collate_fn=3), TypeError, "collate_fn"),
    (lambda: DataLoader(DATA, shuffle=True, generator=3), TypeError, "Generator"),
    (lambda: DataLoader(3), TypeError, "got int"),
    (lambda: DataLoader(Stream(3), shuffle=True), ValueError, "its own order"),
    (lambda: DataLoader(Stream(3), sampler=[1]), ValueError, "its own order"),
    (lambda: DataLoader(Dataset()), TypeError, "define __len__"),
])
def test_refusals(make, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
