"""DataLoader: batches of a dataset in a sampler's order, read ahead by threads or processes if wanted.

It checks what it is given, and puts together an order, workers and a place in the pass; one pass is
`iterator.BatchIterator`, what a worker does is `worker.Reader`.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from ..backend.random import Generator
from .collate import default_collate, default_convert
from .dataset import IterableDataset
from .iterator import BatchIterator, Inline, Worker, close
from .pin import place_for
from .position import Position
from .resumable import ResumableSampler, require_count
from .sampler import BatchSampler, RandomSampler, SequentialSampler
from .threads import ThreadWorker
from .worker import Plan, Reader, WorkerInfo

__all__ = ["DataLoader"]

PREFETCH = 2  # batches read ahead for each worker, unless the caller says otherwise
WORKERS = ("thread", "process")


class DataLoader:
    """Iterate over the batches of a dataset.

    The batches of a pass and their order follow from the seed and the epoch (or pass) alone: not from the
    number of workers, nor from their kind or timing. What a dataset draws from `distgrad.rand` and its kin
    while it makes a batch comes from a random stream of that batch. A dataset that has `__getitems__`
    (TensorDataset and the file datasets do) reads each batch by one call.

    Args:
        dataset: a Dataset (`__getitem__`, `__len__`), or an IterableDataset.
        batch_size: samples a batch; None yields single samples without a batch dimension.
        shuffle: a new random order each time.
        sampler: an iterable of indices, instead of `shuffle`; under several ranks a DistributedSampler.
        batch_sampler: an iterable of lists of indices, instead of `batch_size`, `shuffle`, `sampler`
            and `drop_last`.
        num_workers: how many read ahead, taking turns batch by batch; 0 reads in the caller's thread. An
            IterableDataset is read by each of them: it asks `get_worker_info()` which part is its own.
        collate_fn: makes a batch of a list of samples; default `default_collate`.
        pin_memory: make batches in pinned memory of the host, from which `batch.to("cuda", non_blocking=True)` runs
            beside the computation. Workers do it; so does `batch.pin_memory()` of a collate_fn's own class. Where no
            CUDA device can be used, a warning says why, and batches lie in ordinary memory.
        drop_last: leave out the last batch if it is shorter (with an IterableDataset, of each worker).
        timeout: seconds that a batch of the workers may take; 0 waits for ever.
        worker_init_fn: called with the worker's number, in the worker, before its first pass.
        generator: the stream that `shuffle` draws from; default the context's.
        prefetch_factor: batches read ahead for each worker; default 2.
        persistent_workers: keep the workers from one pass to the next.
        worker: "thread", which copies nothing, or "process" for Python code that holds the interpreter's
            lock. Processes are spawned: the dataset and the functions are sent to them once, and they share
            the cores that this process may run on. A batch from them is made of tensors, arrays, numbers,
            strings, lists, tuples and dicts. Python's and numpy's own random streams are seeded in processes
            for each pass; threads share them with the program.
        pin_memory_device: the device that batches are pinned for, 'cuda:1'; default the current one.

    Workers end with the pass, when the loop is left early, when the iterator is dropped, and with the
    program. An exception of a worker is raised in the loop, after the batches before it, with a note that
    names the batch; one from a process has the traceback from there as a note.

    Raises:
        TypeError, ValueError: arguments of the wrong kind, or that contradict each other.
    """

    def __init__(self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None,
                 sampler: Iterable[Any] | None = None, batch_sampler: Iterable[list[Any]] | None = None,
                 num_workers: int = 0, collate_fn: Callable[[Any], Any] | None = None, pin_memory: bool = False,
                 drop_last: bool = False, timeout: float = 0, worker_init_fn: Callable[[int], object] | None = None,
                 *, generator: Generator | None = None, prefetch_factor: int | None = None,
                 persistent_workers: bool = False, worker: str = "thread", pin_memory_device: Any = "") -> None:
        _check_order(dataset, batch_size, shuffle, sampler, batch_sampler, drop_last)
        _check_workers(num_workers, timeout, worker_init_fn, prefetch_factor, persistent_workers, worker)
        _check_rest(collate_fn, generator, pin_memory)
        self.pin_memory_device = pin_memory_device
        if pin_memory:
            pin_memory = _can_pin(pin_memory_device)
        self.iterable = isinstance(dataset, IterableDataset)
        self.dataset = dataset
        self.batch_size = None if batch_sampler is not None else batch_size
        self.drop_last = drop_last
        self.num_workers = int(num_workers)
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.generator = generator
        self.prefetch_factor = PREFETCH if prefetch_factor is None else prefetch_factor
        self.persistent_workers = persistent_workers
        self.pin_memory = pin_memory
        self.worker = worker
        self.sampler = sampler
        if sampler is None and batch_sampler is None and not self.iterable:
            self.sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        self.batch_sampler = batch_sampler
        if self.sampler is not None and batch_size is not None:
            self.batch_sampler = BatchSampler(self.sampler, batch_size, drop_last)
        self.single = batch_size is None
        self.collate_fn = collate_fn or (default_convert if self.single else default_collate)
        self._position = self._new_position()
        self._pool: list[Worker] = []  # the persistent workers
        self._latest: Callable[[], BatchIterator | None] = lambda: None

    def __len__(self) -> int:
        """How many batches a whole pass has.

        Raises:
            TypeError: the sampler, or the IterableDataset, has no length.
        """
        if not self.iterable:
            return len(self.sampler if self.single else self.batch_sampler)  # type: ignore[arg-type]
        samples = len(self.dataset)
        if self.batch_size is None:
            return samples
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> BatchIterator:
        latest = self._latest()
        if latest is not None and self._pool:
            latest.close()  # its workers begin another pass
        order: Iterator[Any] | None = None
        if not self.iterable:
            order = iter(self.sampler if self.single else self.batch_sampler)  # type: ignore[arg-type]
        place = self._position.begin()
        if order is not None and place.skip:
            order = islice(order, place.skip, None)
        workers = self._pool or self._start()
        if self.persistent_workers:
            self._pool = workers
        try:
            found = BatchIterator(
                workers, order, place, skip=place.skip if self.iterable else 0, timeout=self.timeout,
                ahead=self.prefetch_factor if self.num_workers else 0, persistent=self.persistent_workers,
                warn=self.iterable and self.num_workers > 1 and self.worker_init_fn is None)
        except BaseException:
            close(workers)
            workers.clear()  # the next pass starts new ones
            raise
        self._latest = weakref.ref(found)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The place in the latest pass, of JSON types only: what has been handed out, not what was read ahead.

        With a DistributedSampler it is that sampler's state: the same on every rank that has been handed as
        many batches, and good for any number of ranks. With other samplers, and with an IterableDataset, it
        is this process's own place.
        """
        return self._position.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass be the rest of the one that was saved, with the batches that it would have had.

        An IterableDataset, and a sampler that is not this package's, begin anew, and as many batches as had
        been handed out are left out: they have to yield the same again.

        Raises:
            TypeError, KeyError, ValueError: not a state of such a loader, or of other data.
        """
        self._position.load_state_dict(state)

    def _new_position(self) -> Position:
        root: Any = self.sampler
        step, whole = 1, self.single
        if isinstance(self.batch_sampler, BatchSampler):
            root, step = self.batch_sampler.sampler, self.batch_sampler.batch_size
            whole = type(self.batch_sampler).__iter__ is BatchSampler.__iter__  # a subclass may take samples otherwise
        return Position(root if whole and isinstance(root, ResumableSampler) else None, step, self.generator,
                        self.num_workers if self.iterable else 0)

    def _start(self) -> list[Worker]:
        """New workers for one pass, or for all."""
        plan = Plan(self.dataset, self.collate_fn, self.single, self.iterable, self.batch_size, self.drop_last,
                    place_for(self.pin_memory_device) if self.pin_memory else None)
        if not self.num_workers:
            return [Inline(Reader(plan))]
        kind: Any = ThreadWorker
        if self.worker == "process":
            from .processes import ProcessWorker as kind  # loads multiprocessing
        workers: list[Worker] = []
        try:
            for number in range(self.num_workers):
                workers.append(kind(plan, WorkerInfo(number, self.num_workers), self.worker_init_fn))
        except BaseException:
            close(workers)
            raise
        return workers


def _check_order(dataset: Any, batch_size: Any, shuffle: Any, sampler: Any, batch_sampler: Any, drop_last: Any) -> None:
    """Refuse what is no dataset, orders for a dataset that has none, and orders that contradict each other."""
    if not isinstance(shuffle, bool | None):
        raise TypeError(f"shuffle is True or False, got {shuffle!r}")
    if not isinstance(drop_last, bool):
        raise TypeError(f"drop_last is True or False, got {drop_last!r}")
    if isinstance(dataset, IterableDataset):
        if shuffle or sampler is not None or batch_sampler is not None:
            raise ValueError(f"{type(dataset).__name__} is an IterableDataset, which has its own order: leave out "
                             "shuffle, sampler and batch_sampler")
    elif not hasattr(dataset, "__getitem__"):
        raise TypeError(f"DataLoader reads a Dataset, with __getitem__ and __len__; got {type(dataset).__name__}")
    elif sampler is None and batch_sampler is None and not hasattr(dataset, "__len__"):
        raise TypeError(f"{type(dataset).__name__} has no length: define __len__, or pass a sampler")
    for name, given in (("sampler", sampler), ("batch_sampler", batch_sampler)):
        if given is not None and not isinstance(given, Iterable):
            raise TypeError(f"{name} is an iterable, got {type(given).__name__}")
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        raise ValueError("batch_sampler decides everything about batches: leave out batch_size, shuffle, sampler "
                         "and drop_last")
    if sampler is not None and shuffle:
        raise ValueError("a sampler decides the order: leave out shuffle, or the sampler")
    if batch_size is not None:
        require_count("batch_size", batch_size, 1)
    elif drop_last:
        raise ValueError("drop_last leaves out a short batch; batch_size=None makes no batches")


def _check_workers(num_workers: Any, timeout: Any, worker_init_fn: Any, prefetch_factor: Any, persistent: Any,
                   worker: Any) -> None:
    """Refuse workers that cannot be, and options of workers without any."""
    require_count("num_workers", num_workers, 0)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout is a number of seconds, got {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout is at least 0 seconds, got {timeout}")
    if worker_init_fn is not None and not callable(worker_init_fn):
        raise TypeError(f"worker_init_fn is a function of a worker's number, got {type(worker_init_fn).__name__}")
    if prefetch_factor is not None:
        require_count("prefetch_factor", prefetch_factor, 1)
    if not isinstance(persistent, bool):
        raise TypeError(f"persistent_workers is True or False, got {persistent!r}")
    if worker not in WORKERS:
        raise ValueError(f"worker is 'thread' or 'process', got {worker!r}")
    for name, given in (("prefetch_factor", prefetch_factor), ("timeout", timeout), ("persistent_workers", persistent)):
        if given and not num_workers:
            raise ValueError(f"{name} is about workers; set num_workers above 0")


def _check_rest(collate_fn: Any, generator: Any, pin_memory: Any) -> None:
    if collate_fn is not None and not callable(collate_fn):
        raise TypeError(f"collate_fn is a function of a list of samples, got {type(collate_fn).__name__}")
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"generator is a distgrad.Generator, got {type(generator).__name__}")
    if not isinstance(pin_memory, bool):
        raise TypeError(f"pin_memory is True or False, got {pin_memory!r}")


def _can_pin(device: Any) -> bool:
    """Whether batches can be pinned for this device; a warning says why not."""
    try:
        place_for(device)
    except RuntimeError as error:
        warnings.warn(f"pin_memory=True: batches lie in ordinary memory of the host, for no device takes them: {error}",
                      UserWarning, stacklevel=3)
        return False
    return True
