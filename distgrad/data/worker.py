"""What one worker does, in whatever thread or process it lives: read batches, and answer for them.

It knows the dataset and how to make a batch. Where requests come from, and in which order batches are
handed out, is not known here.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..backend import Device, get
from ..backend.random import Generator, use_generator
from .collate import default_collate
from .pin import pin, pinning
from .rows import read_rows

__all__ = ["Answer", "Begin", "Plan", "Read", "Reader", "WorkerInfo", "get_worker_info", "serve"]

Answer = tuple[str, Any]  # ("batch", it), ("end", whether the dataset asked for its worker), ("error", the exception)


@dataclass
class WorkerInfo:
    """Which of a DataLoader's workers this is.

    Attributes:
        id, num_workers: its number, from 0, and how many there are.
        seed: differs between workers, and from pass to pass.
        dataset: the dataset as this worker has it; an IterableDataset is a copy of its own.
    """

    id: int
    num_workers: int
    seed: int = 0
    dataset: Any = None
    asked: bool = field(default=False, repr=False)


_info: ContextVar[WorkerInfo | None] = ContextVar("distgrad_data_worker", default=None)


def get_worker_info() -> WorkerInfo | None:
    """In a worker of a DataLoader: which one it is; None elsewhere."""
    info = _info.get()
    if info is not None:
        info.asked = True
    return info


@dataclass(frozen=True)
class Plan:
    """How batches are made: one sample each without a batch dimension if `single`, else lists of them collated.

    Attributes:
        iterable: read the dataset's iterator, `batch_size` at a time; else read it at given indices.
        pin: the device that batches are pinned for; None leaves them in ordinary memory.
    """

    dataset: Any
    collate_fn: Callable[[Any], Any]
    single: bool
    iterable: bool
    batch_size: int | None
    drop_last: bool
    pin: Device | None = None


class Begin(NamedTuple):
    """A pass begins; its random streams follow from `entropy`. Threads get their caller's context."""

    entropy: tuple[int, ...]
    context: contextvars.Context | None = None


class Read(NamedTuple):
    """One batch is wanted: its number in the pass, where in the order it begins, and its indices, if it has some."""

    number: int
    place: int
    indices: Any = None


class _Stream(Generator):
    """A random stream that is seeded when it is first drawn from: most batches draw nothing."""

    def __init__(self, entropy: Sequence[int]) -> None:
        self._entropy = entropy

    @cached_property
    def _seed(self) -> int:  # type: ignore[override]
        return int(np.random.SeedSequence(self._entropy).generate_state(1, np.uint64)[0])

    @cached_property
    def numpy(self) -> np.random.Generator:  # type: ignore[override]
        return np.random.Generator(np.random.PCG64(self._seed))


class Reader:
    """Reads batches, each with a random stream of its own, so that timing and the number of workers change nothing."""

    def __init__(self, plan: Plan, info: WorkerInfo | None = None,
                 init: Callable[[int], object] | None = None) -> None:
        self.info = info
        self._plan = plan
        self._init = init

    def begin(self, order: Begin) -> None:
        """Begin a pass; the worker_init_fn is called before the first."""
        self._entropy = order.entropy
        self._context = order.context or contextvars.copy_context()
        self._context.run(self._enter)

    def _enter(self) -> None:
        worker = 0 if self.info is None else self.info.id
        stream = _Stream([*self._entropy, worker])
        use_generator(stream)
        _info.set(self.info)
        pinning.set(self._plan.pin)
        if self.info is not None:
            self.info.seed = stream.initial_seed()
            if self._init is not None:
                self._init(worker)
                self._init = None
        if self._plan.iterable:
            self._samples = iter(self._plan.dataset)

    def read(self, order: Read) -> Answer:
        """Read one batch. Exceptions are answers too, with a note that says which batch it was."""
        try:
            return self._context.run(self._pinned if self._plan.pin else self._read, order)
        except BaseException as error:  # also SystemExit: a worker that just ended would be waited for
            error.add_note(f"in DataLoader, batch {order.number}{self._samples_of(order)}")
            return "error", error

    def _read(self, order: Read) -> Answer:
        return self._next() if self._plan.iterable else self._at(order)

    def _pinned(self, order: Read) -> Answer:
        place: Any = self._plan.pin
        with get(place).using(place):  # this thread's own device may be another one
            kind, value = self._read(order)
            return kind, pin(value, place) if kind == "batch" else value

    def _at(self, order: Read) -> Answer:
        plan = self._plan
        use_generator(_Stream([*self._entropy, order.place]))
        if plan.single:
            return "batch", plan.collate_fn(plan.dataset[order.indices])
        samples = read_rows(plan.dataset, order.indices)
        return "batch", plan.collate_fn(samples if plan.collate_fn is default_collate else list(samples))

    def _next(self) -> Answer:
        plan = self._plan
        batch = list(islice(self._samples, 1 if plan.single else plan.batch_size))
        if not batch or (plan.drop_last and len(batch) < (plan.batch_size or 0)):
            return "end", self.info is None or self.info.asked
        return "batch", plan.collate_fn(batch[0] if plan.single else batch)

    def _samples_of(self, order: Read) -> str:
        if self._plan.iterable:
            return ""
        if self._plan.single:
            return f", sample {order.indices}"
        shown = ", ".join(map(str, order.indices[:8])) + (", ..." if len(order.indices) > 8 else "")
        return f", samples [{shown}]"


def serve(reader: Reader, orders: Iterable[Begin | Read], answer: Callable[[Answer], object]) -> None:
    """Do what is ordered until orders end; each Read has one answer, in order."""
    failure: BaseException | None = None
    for order in orders:
        if isinstance(order, Read):
            answer(reader.read(order) if failure is None else ("error", failure))
            continue
        try:
            reader.begin(order)
            failure = None
        except BaseException as error:
            error.add_note("in DataLoader, at the beginning of a pass")
            failure = error
