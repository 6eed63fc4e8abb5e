"""DataLoader: batches of a dataset in a sampler's order, read ahead by threads if wanted.

Threads, not processes: nothing may fork once MPI runs, and numpy releases the interpreter lock while
it copies. Batches come in the sampler's order whatever the number of threads.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from typing import Any

from ..backend.random import Generator, default_generator, use_generator
from .collate import default_collate, default_convert
from .dataset import IterableDataset
from .rows import read_rows
from .sampler import BatchSampler, RandomSampler, SequentialSampler, require_count

__all__ = ["DataLoader"]

PREFETCH = 2  # batches read ahead for each worker, unless the caller says otherwise


class DataLoader:
    """Iterate over the batches of a dataset.

    Args:
        dataset: a Dataset (`__getitem__`, `__len__`), or an IterableDataset.
        batch_size: samples a batch; None yields single samples without a batch dimension.
        shuffle: a new random order each time.
        sampler: an iterable of indices, instead of `shuffle`.
        batch_sampler: an iterable of lists of indices, instead of `batch_size`, `shuffle`, `sampler`
            and `drop_last`.
        num_workers: threads that read ahead; 0 reads in the caller's thread. An IterableDataset is
            read by one thread, because it has one position. With workers, each batch has a random
            stream of its own (in `distgrad.rand` and its kin), so that timing changes nothing.
        collate_fn: makes a batch of a list of samples; default `default_collate`.
        drop_last: leave out a last batch that is shorter than the others.
        generator: the stream for shuffling; default the context's.
        prefetch_factor: batches read ahead for each worker; default 2.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: arguments that contradict each other, or numbers out of range.
    """

    def __init__(self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None,
                 sampler: Iterable[int] | None = None, batch_sampler: Iterable[list[int]] | None = None,
                 num_workers: int = 0, collate_fn: Callable[[Any], Any] | None = None, *, drop_last: bool = False,
                 generator: Generator | None = None, prefetch_factor: int | None = None) -> None:
        self.num_workers = require_count("num_workers", num_workers, 0)
        if prefetch_factor is not None:
            if not num_workers:
                raise ValueError("prefetch_factor says how far workers read ahead; set num_workers above 0")
            require_count("prefetch_factor", prefetch_factor, 1)
        if collate_fn is not None and not callable(collate_fn):
            raise TypeError(f"collate_fn is a function of a list of samples, got {type(collate_fn).__name__}")
        if generator is not None and not isinstance(generator, Generator):
            raise TypeError(f"generator is a distgrad.Generator, got {type(generator).__name__}")
        _check_kind(dataset, shuffle, sampler, batch_sampler)
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("batch_sampler decides everything about batches: leave out batch_size, shuffle, sampler "
                             "and drop_last")
        if sampler is not None and shuffle:
            raise ValueError("a sampler decides the order: leave out shuffle, or the sampler")
        if batch_size is None and drop_last:
            raise ValueError("drop_last leaves out a short batch; batch_size=None makes no batches")
        self.iterable = isinstance(dataset, IterableDataset)
        self.dataset = dataset
        self.batch_size = None if batch_sampler is not None or batch_size is None else \
            require_count("batch_size", batch_size, 1)
        self.drop_last = drop_last
        self.generator = generator
        self.prefetch_factor = PREFETCH if prefetch_factor is None else prefetch_factor
        self.sampler = sampler
        if sampler is None and batch_sampler is None and not self.iterable:
            self.sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        self.batch_sampler = batch_sampler
        if self.sampler is not None and self.batch_size is not None:
            self.batch_sampler = BatchSampler(self.sampler, self.batch_size, drop_last)
        self.single = batch_size is None
        self.collate_fn = collate_fn or (default_convert if self.single else default_collate)

    def __len__(self) -> int:
        """How many batches one pass has.

        Raises:
            TypeError: the sampler, or the IterableDataset, has no length.
        """
        if not self.iterable:
            return len(self.sampler if self.single else self.batch_sampler)  # type: ignore[arg-type]
        samples = len(self.dataset)
        if self.batch_size is None:
            return samples
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return self._read_ahead() if self.num_workers else (task() for task in self._tasks())

    def _tasks(self) -> Iterator[Callable[[], Any]]:
        """One callable a batch, in order."""
        if self.iterable:
            yield from self._iterable_tasks()
            return
        order: Any = self.sampler if self.single else self.batch_sampler
        for number, indices in enumerate(order):
            yield partial(self._load, number, indices)

    def _iterable_tasks(self) -> Iterator[Callable[[], Any]]:
        """Reading an iterator happens here, in the caller's thread or the one reading thread."""
        samples = iter(self.dataset)
        if self.single:
            yield from (partial(self.collate_fn, sample) for sample in samples)
            return
        while batch := list(islice(samples, self.batch_size)):
            if len(batch) < (self.batch_size or 0) and self.drop_last:
                return
            yield partial(self.collate_fn, batch)

    def _load(self, number: int, indices: Any) -> Any:
        """Read and collate one batch; an exception gets a note that says which."""
        try:
            if self.single:
                return self.collate_fn(self.dataset[indices])
            return self.collate_fn(read_rows(self.dataset, indices))
        except Exception as error:
            shown = indices if self.single else [*indices[:8], *(["..."] if len(indices) > 8 else [])]
            error.add_note(f"in DataLoader, batch {number}, samples {shown}")
            raise

    def _read_ahead(self) -> Iterator[Any]:
        """Batches read by threads, in order. Leaving early, by an exception too, ends the threads."""
        workers = 1 if self.iterable else self.num_workers
        depth = self.num_workers * self.prefetch_factor
        seed = int((self.generator or default_generator()).numpy.integers(1 << 62))
        tasks = self._tasks()
        context = contextvars.copy_context()
        pending: deque[Future[Any]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="distgrad-data")
        try:
            for number in count():
                task = partial(_next, tasks) if self.iterable else next(tasks, None)
                if task is None:
                    break
                pending.append(pool.submit(context.copy().run, _with_stream, seed + number, task))
                if len(pending) >= depth:
                    batch = pending.popleft().result()
                    if batch is _END:
                        return
                    yield batch
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_END = object()


def _next(tasks: Iterator[Callable[[], Any]]) -> Any:
    """The next batch of an IterableDataset, read on the one thread that does."""
    task = next(tasks, None)
    return _END if task is None else task()


def _with_stream(seed: int, task: Callable[[], Any]) -> Any:
    """Run a task with a random stream of its own."""
    use_generator(Generator(seed))
    return task()


def _check_kind(dataset: Any, shuffle: Any, sampler: Any, batch_sampler: Any) -> None:
    """Refuse what is no dataset, and orders for a dataset that has none."""
    if shuffle is not None and not isinstance(shuffle, bool):
        raise TypeError(f"shuffle is True or False, got {shuffle!r}")
    if isinstance(dataset, IterableDataset):
        if shuffle or sampler is not None or batch_sampler is not None:
            raise ValueError(f"{type(dataset).__name__} is an IterableDataset, which has its own order: leave out "
                             "shuffle, sampler and batch_sampler")
        return
    if not hasattr(dataset, "__getitem__"):
        raise TypeError(f"DataLoader reads a Dataset, with __getitem__ and __len__; got {type(dataset).__name__}")
    if sampler is None and batch_sampler is None and not hasattr(dataset, "__len__"):
        raise TypeError(f"{type(dataset).__name__} has no length: define __len__, or pass a sampler")
