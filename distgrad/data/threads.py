"""Workers as threads: nothing is copied, and numpy lets them run side by side.

A worker that is dropped ends; nothing here keeps it alive, and its thread does not know it.
"""

from __future__ import annotations

import contextvars
import copy
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .worker import Answer, Begin, Plan, Read, Reader, WorkerInfo, serve

__all__ = ["ThreadWorker"]

_PATIENCE = 5.0  # seconds that the end of a loop waits for what a thread is just reading


class ThreadWorker:
    """One thread that reads. An IterableDataset is copied for it (by `copy.copy`), for each worker may change its own.

    Attributes:
        pending: how many answers are still to come.
        finished: this pass's iterator has come to its end.
    """

    def __init__(self, plan: Plan, info: WorkerInfo, init: Callable[[int], object] | None) -> None:
        if plan.iterable:
            plan = replace(plan, dataset=copy.copy(plan.dataset))
        info.dataset = plan.dataset
        self.pending = 0
        self.finished = False
        self._orders: queue.SimpleQueue[Begin | Read | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        thread = threading.Thread(target=serve, name=f"distgrad-data-{info.id}", daemon=True,
                                  args=(Reader(plan, info, init), iter(self._orders.get, None), self._answers.put))
        thread.start()
        self._finalize = weakref.finalize(self, _end, self._orders, thread)

    def begin(self, entropy: tuple[int, ...]) -> None:
        """A pass begins."""
        self.finished = False
        self._orders.put(Begin(entropy, contextvars.copy_context()))

    def ask(self, order: Read) -> None:
        """Order a batch."""
        self.pending += 1
        self._orders.put(order)

    def answer(self, timeout: float | None) -> Answer:
        """Wait for the oldest order's answer.

        Raises:
            TimeoutError: it did not come within `timeout` seconds.
        """
        try:
            found = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        self.pending -= 1
        return found

    def hang_up(self) -> None:
        """Let the thread end after what it is reading; does not wait."""
        _drop_orders(self._orders)

    def close(self) -> None:
        """End the thread, and wait for it."""
        self._finalize()


def _drop_orders(orders: queue.SimpleQueue[Any]) -> None:
    """Take back what has not been begun, and order the end."""
    try:
        while True:
            orders.get_nowait()
    except queue.Empty:
        orders.put(None)


def _end(orders: queue.SimpleQueue[Any], thread: threading.Thread) -> None:
    _drop_orders(orders)
    if thread is not threading.current_thread():  # the garbage collector may come here from anywhere
        thread.join(_PATIENCE)
