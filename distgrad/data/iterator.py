"""One pass over a loader: orders go to the workers in turn, and batches come back in that same order.

The order of batches is that of the orders, so neither timing nor the number of workers changes it. What
counts as consumed is what has been handed out here, and not what workers have read ahead.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from .position import Pass
from .worker import Answer, Begin, Read, Reader

__all__ = ["BatchIterator", "Inline", "Worker", "close"]


class Worker(Protocol):
    """Whoever reads: a thread, a process, or the caller's own thread."""

    pending: int
    finished: bool

    def begin(self, entropy: tuple[int, ...]) -> None: ...

    def ask(self, order: Read) -> None: ...

    def answer(self, timeout: float | None) -> Answer: ...

    def hang_up(self) -> None: ...

    def close(self) -> None: ...


class Inline:
    """No worker: what is ordered is read when its answer is wanted, by whoever wants it."""

    def __init__(self, reader: Reader) -> None:
        self.pending = 0
        self.finished = False
        self._reader = reader
        self._orders: deque[Read] = deque()

    def begin(self, entropy: tuple[int, ...]) -> None:
        self.finished = False
        self._reader.begin(Begin(entropy))

    def ask(self, order: Read) -> None:
        self.pending += 1
        self._orders.append(order)

    def answer(self, timeout: float | None) -> Answer:
        self.pending -= 1
        return self._reader.read(self._orders.popleft())

    def hang_up(self) -> None:
        self._orders.clear()

    def close(self) -> None:
        self._orders.clear()


def close(workers: list[Any]) -> None:
    """End workers, all at once, and wait for them."""
    for worker in workers:
        worker.hang_up()
    for worker in workers:
        worker.close()


class BatchIterator:
    """The batches of one pass; `close()` leaves it early, as dropping it does.

    Args:
        workers: the pass is begun on them here, and they end with it unless `persistent`.
        order: the indices of each batch, or None where workers have iterators of their own.
        place: is told what has been handed out.
        skip: how many batches to read and drop first, which an earlier run has consumed.
        ahead: how many batches each worker may be ordered ahead; 0 orders one when it is wanted.
        warn: say so if an IterableDataset read by several workers never asks which of them it is in.
    """

    def __init__(self, workers: list[Worker], order: Iterator[Any] | None, place: Pass, *, skip: int = 0,
                 ahead: int = 0, timeout: float = 0.0, persistent: bool = False, warn: bool = False) -> None:
        self._workers = workers
        self._order = order
        self._place = place
        self._timeout = timeout or None
        self._persistent = persistent
        self._warn = warn
        self._expected: deque[Worker | Exception] = deque()  # whose answer comes next; an error of the order itself
        self._ordered = self._handed = 0
        self._ahead = ahead
        self._skip = skip
        self.over = False
        for worker in workers:
            while worker.pending:  # of a pass that was left early
                self._answer(worker)
            worker.begin(place.entropy)
        for _ in range(ahead):
            for worker in workers:
                self._request(worker)
        place.handed_out(0, False)

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Any:
        if self.over:
            raise StopIteration
        try:
            while self._skip:
                self._take()
                self._skip -= 1
            batch = self._take()
        except StopIteration:
            self._place.handed_out(self._handed, True)
            self._finish()
            raise
        except BaseException:
            self._place.handed_out(self._handed, False)
            close(self._workers)
            self._workers.clear()  # persistent ones too: their loader finds none, and starts new ones
            self._finish()
            raise
        self._handed += 1
        self._place.handed_out(self._handed, False)
        return batch

    def close(self) -> None:
        """Leave the pass: workers end after what they are reading, unless they are persistent."""
        if not self.over:
            self._finish()

    def _finish(self) -> None:
        self.over = True
        self._expected.clear()
        if not self._persistent:
            close(self._workers)
        self._workers = []

    def _take(self) -> Any:
        """The next batch in order, and a new order for the worker that it came from."""
        if not self._ahead:
            self._request(self._workers[0])
        while self._expected:
            worker = self._expected.popleft()
            if isinstance(worker, Exception):
                raise worker
            kind, value = self._answer(worker)
            if kind == "error":
                try:
                    if isinstance(value, StopIteration):  # would look like the end of the pass
                        raise RuntimeError("the dataset raised StopIteration") from value
                    raise value
                finally:
                    del value  # else its traceback keeps this frame, this frame keeps it, and both keep the caller's
            if kind == "end":
                self._check_asked(value)
                worker.finished = True
                continue
            if self._ahead:
                self._request(worker)
            return value
        raise StopIteration

    def _answer(self, worker: Worker) -> Answer:
        try:
            return worker.answer(self._timeout)
        except TimeoutError:
            raise RuntimeError(f"DataLoader: batch {self._handed} did not come within {self._timeout:g} s; give it "
                               "more time by timeout, more workers, or a faster dataset") from None

    def _request(self, worker: Worker) -> None:
        """Order the next batch, if there is one."""
        if worker.finished:
            return
        indices = None
        if self._order is not None:
            try:
                indices = next(self._order)
            except StopIteration:
                self._order = iter(())
                return
            except Exception as error:  # comes after the batches that were ordered before
                self._order = iter(())
                self._expected.append(error)
                return
        worker.ask(Read(self._ordered, self._place.first_sample(self._ordered), indices))
        self._expected.append(worker)
        self._ordered += 1

    def _check_asked(self, asked: bool) -> None:
        if self._warn and not asked:
            self._warn = False
            warnings.warn("an IterableDataset was read by several workers and never called get_worker_info(): each of "
                          "them read all of it, so every sample came several times", UserWarning, stacklevel=4)
