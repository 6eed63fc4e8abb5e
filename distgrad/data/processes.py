"""Workers as processes of their own, for datasets whose reading holds Python's lock.

They are spawned, never forked: threads and a running MPI survive no fork. What a worker needs is sent
by Python's own start of processes; batches come back as `wire.py` says. A worker ends when its pipe
does, so none outlives its loader.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from ..backend import get
from ..graph.modes import no_grad
from .distributed import this_replica, use_world
from .pin import pin
from .wire import IN_FLIGHT, receive, send, widen
from .worker import Answer, Begin, Plan, Read, Reader, WorkerInfo, serve

__all__ = ["ProcessWorker"]

_PATIENCE = 5.0  # seconds that a process may go on with what it is reading before it is killed
# A batch system signals every process of a job; the loader's own decides when its workers end.
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_HINT = ("with worker='process' the dataset, collate_fn and worker_init_fn are made anew in another process: they are "
         "defined at the top of a module, and a script starts its work under `if __name__ == \"__main__\":`; "
         "worker='thread' needs none of that")


class ProcessWorker:
    """One process that reads.

    Attributes:
        pending: how many answers are still to come.
        finished: this pass's iterator has come to its end.

    Raises:
        RuntimeError: the process cannot be started with this dataset, collate_fn or worker_init_fn.
    """

    def __init__(self, plan: Plan, info: WorkerInfo, init: Callable[[int], object] | None) -> None:
        context = multiprocessing.get_context("spawn")
        mine, other = context.Pipe(duplex=True)
        widen(mine)
        widen(other)
        self.pending = 0
        self.finished = False
        self._ready = False
        self._waiting: deque[Read] = deque()  # more than the pipe is sure to hold
        self._connection = mine
        self._pin = plan.pin
        plan = replace(plan, pin=None)  # here: no worker process touches a device
        self._process = context.Process(target=_main, args=(other, plan, info, init, this_replica()), daemon=True,
                                        name=f"distgrad-data-{info.id}")
        self._id = info.id
        try:
            self._process.start()
        except Exception as error:
            mine.close()
            raise RuntimeError(f"DataLoader worker process {info.id} cannot be started: {error}; {_HINT}") from error
        finally:
            other.close()
        self._finalize = Finalize(self, _end, args=(mine, self._process), exitpriority=10)

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def begin(self, entropy: tuple[int, ...]) -> None:
        """A pass begins."""
        self.finished = False
        self._send(["begin", list(entropy)])

    def ask(self, order: Read) -> None:
        """Order a batch."""
        self.pending += 1
        if self.pending > IN_FLIGHT:
            self._waiting.append(order)
        else:
            self._send(["read", order.number, order.place, order.indices])

    def answer(self, timeout: float | None) -> Answer:
        """Wait for the oldest order's answer.

        Raises:
            TimeoutError: it did not come within `timeout` seconds.
            RuntimeError: the process has ended; says how.
        """
        if not self._ready:  # to start is not to be slow
            self._receive(None)
            self._ready = True
        kind, value = self._receive(timeout)
        self.pending -= 1
        if self._waiting:
            order = self._waiting.popleft()
            self._send(["read", order.number, order.place, order.indices])
        if kind == "error":
            return kind, _revive(f"worker process {self._id} (pid {self.pid})", value)
        return kind, pin(value, self._pin) if kind == "batch" and self._pin is not None else value

    def hang_up(self) -> None:
        """Let the process end after what it is reading; does not wait."""
        self._connection.close()

    def close(self) -> None:
        """End the process, and wait for it; one that does not end is killed."""
        self._finalize()

    def _receive(self, timeout: float | None) -> Answer:
        if not connections.wait([self._connection, self._process.sentinel], timeout):
            raise TimeoutError
        try:
            kind, value = receive(self._connection, None if self._pin is None else self._pinned_memory)
        except (EOFError, OSError):
            raise self._lost() from None
        return kind, value

    def _pinned_memory(self, size: int) -> np.ndarray:
        place: Any = self._pin
        backend = get(place)
        with backend.using(place):
            found: np.ndarray = backend.host_memory((size,), "uint8")
        return found

    def _send(self, message: list[Any]) -> None:
        try:
            send(self._connection, message, self.pid or 0)
        except (BrokenPipeError, ConnectionError):
            raise self._lost() from None

    def _lost(self) -> RuntimeError:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"ended by {-code}"
            how += " (out of memory?)" if -code == signal.SIGKILL else ""
        else:
            how = f"ended by itself with exit code {code}, and perhaps printed why; {_HINT}"
        return RuntimeError(f"DataLoader worker process {self._id} (pid {self.pid}) {how}")


def _end(connection: Connection, process: Any) -> None:
    connection.close()
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def _revive(who: str, told: Any) -> Exception:
    """A worker's exception, of its own type if that is known here and takes the same arguments."""
    module, name, args, text = told
    kind = getattr(sys.modules.get(module), name, None)
    error: Exception | None = None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error = kind(*args)
        except Exception:
            error = None
    if error is None:
        error = RuntimeError(f"{name}: {', '.join(map(str, args))}")
    error.add_note(f"raised in DataLoader {who}; there:\n{text}")
    return error


# -- in the process

def _main(connection: Connection, plan: Plan, info: WorkerInfo, init: Callable[[int], object] | None,
          replica: tuple[int, int]) -> None:
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_world(lambda: replica, final=True)  # also where the dataset loads distgrad.distributed here
    info.dataset = plan.dataset
    parent = multiprocessing.parent_process()
    peer = parent.pid if parent is not None and parent.pid is not None else 0

    def answer(found: Answer) -> None:
        kind, value = found
        try:
            send(connection, [kind, _describe(value) if kind == "error" else value], peer)
        except TypeError as error:
            send(connection, ["error", _describe(error)], peer)

    with no_grad():  # a graph cannot travel
        try:
            send(connection, ["ready", None], peer)
            serve(Reader(plan, info, init), _orders(connection, info.id), answer)
        except (EOFError, OSError):
            return  # the loader has gone


def _orders(connection: Connection, worker: int) -> Iterator[Begin | Read]:
    while True:
        try:
            kind, *rest = receive(connection)
        except (EOFError, OSError):
            return
        if kind == "read":
            yield Read(*rest)
            continue
        entropy = tuple(rest[0])
        seeds = np.random.SeedSequence([*entropy, worker]).generate_state(2)
        random.seed(int(seeds[0]))
        np.random.seed(int(seeds[1]))
        yield Begin(entropy)


def _describe(error: BaseException) -> list[Any]:
    plain = all(type(arg) in (str, int, float, bool, type(None)) for arg in error.args)
    return [type(error).__module__, type(error).__qualname__, list(error.args) if plain else [str(error)],
            "".join(traceback.format_exception(error)).rstrip()]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connections.wait([parent.sentinel])
        os._exit(1)
