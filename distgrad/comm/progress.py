"""The one thread that owns the wire: jobs in, in order; results and errors out through `Work`.

It knows nothing of what the jobs do. The reducer submits its exchanges here while backward goes on,
and waits for them when backward ends.
"""

from __future__ import annotations

import atexit
import contextvars
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NoReturn

from ..errors import CommError
from .base import Communicator
from .deadline import Deadline, report, stacks

__all__ = ["Progress", "Work"]

# Seconds between a thread's requests for the interpreter while a wire is busy. With Python's 5 ms the
# thread that comes back from a blocking call waits longer for the interpreter than for the network.
_SWITCH_INTERVAL = 2e-4

# Seconds that a forgotten wire may delay the end of the interpreter when no MPI call is in it.
_EXIT_PATIENCE = 1.0


class Work:
    """One submitted job."""

    __slots__ = ("_arguments", "_error", "_finished", "_function", "_owner", "_result")

    def __init__(self, owner: Progress, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._owner = owner
        self._function = function
        self._arguments = arguments
        self._finished = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether the job has ended, with a result or with an error."""
        return self._finished.is_set()

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the job; return what it returned or raise what it raised.

        After `timeout` seconds TimeoutError is raised and the job goes on. Past the configuration's soft
        limit all stacks are printed; past the hard limit CommError is raised or, where the wire cannot
        be interrupted, the job is aborted on all ranks.
        """
        if not self._finished.is_set():
            self._owner.wait_for(f"job {self}", self._finished, timeout)
        if self._error is not None:
            raise self._error
        return self._result

    def run(self) -> None:
        """Do the job; called by the wire's thread."""
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:
            self._error = error
        self._finish()

    def refuse(self, error: BaseException) -> None:
        """End the job without doing it."""
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._arguments = ()  # a finished job does not keep its buffers alive
        self._finished.set()

    def __str__(self) -> str:
        function = self._function
        while isinstance(function, partial):  # whose own text has the arguments' in it: arrays that are being written
            function = function.func
        return getattr(function, "__qualname__", type(function).__name__)


class Progress:
    """A daemon thread that does the submitted jobs one after the other.

    Give it a communicator of its own (`comm.dup()`): while jobs run, nobody else may use that one.
    It ends with `close()`, with its communicator's `close()`, or when the interpreter exits.
    """

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm
        comm.patient = True
        self.closed = False
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._running: Work | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._loop,), daemon=True,
                                        name=f"distgrad wire {comm.name} rank {comm.rank}")
        self._forget = comm.at_close(self.close)
        _interval.begin()
        atexit.register(self.stop_at_exit)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], *args: Any) -> Work:
        """Queue `fn(*args)` behind all jobs submitted before."""
        work = Work(self, fn, args)
        with self._lock:
            if self.closed:
                raise CommError(f"rank {self.comm.rank}: a job was submitted to a closed wire of {self.comm.name!r}")
            self._queue.put(work)
        return work

    def close(self) -> None:
        """Finish what was submitted and end the thread. Further calls do nothing."""
        if not self._end() or threading.current_thread() is self._thread:
            return
        self.wait_for("the wire to close", self._stopped, None)
        self._thread.join()

    def wait_for(self, awaited: str, finished: threading.Event, timeout: float | None) -> None:
        """Wait for an event that the thread sets, within the limits; `Work.wait` and `close` use it."""
        deadline = Deadline()
        while True:
            remaining = deadline.remaining
            if timeout is not None:
                remaining = min(remaining, max(0.0, timeout - deadline.waited))
            if finished.wait(remaining):
                return
            state = self._state(awaited, deadline)
            if timeout is not None and deadline.waited >= timeout:
                raise TimeoutError(f"{state}, longer than the {timeout} s it was given")
            if deadline.hard_passed():
                self._give_up(f"{state}, which is past the hard limit")
            if deadline.soft_passed():
                report(f"{state}\n{stacks()}")

    def stop_at_exit(self) -> None:
        """End the thread before MPI is finalised; jobs that have not begun are refused."""
        waiting: list[Work] = []
        while not self._queue.empty():
            work = self._queue.get()
            if work is not None:
                waiting.append(work)
        self._end()
        for work in waiting:
            work.refuse(CommError(f"rank {self.comm.rank}: the interpreter ended before job {work} began"))
        stuck = self.comm.ranks_are_processes
        self._thread.join(Deadline().remaining if stuck else _EXIT_PATIENCE)
        if stuck and self._thread.is_alive():
            self.comm.abort(f"the program has ended, but job {self._running} is still waiting for other ranks")

    def _end(self) -> bool:
        with self._lock:
            if self.closed:
                return False
            self.closed = True
            self._queue.put(None)
        self._forget()
        return True

    def _loop(self) -> None:
        try:
            while (work := self._queue.get()) is not None:
                self._running = work
                work.run()
                self._running = work = None
        finally:
            _interval.end()
            atexit.unregister(self.stop_at_exit)
            self._stopped.set()

    def _state(self, awaited: str, deadline: Deadline) -> str:
        running = f"running: job {self._running}" if self._running else "no job is running"
        return (f"rank {self.comm.rank} of {self.comm.size} has waited {deadline.waited:.1f} s for {awaited} "
                f"on {self.comm.name!r} ({running}, {self._queue.qsize()} queued)")

    def _give_up(self, text: str) -> NoReturn:
        if self.comm.ranks_are_processes:
            report(stacks())
            self.comm.abort(text)
        raise CommError(text)


class _SwitchInterval:
    """The interpreter's switch interval, short while at least one wire exists."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wires = 0
        self._previous = 0.0

    def begin(self) -> None:
        with self._lock:
            if self._wires == 0:
                self._previous = sys.getswitchinterval()
                sys.setswitchinterval(_SWITCH_INTERVAL)
            self._wires += 1

    def end(self) -> None:
        with self._lock:
            self._wires -= 1
            if self._wires == 0:
                sys.setswitchinterval(self._previous)


_interval = _SwitchInterval()
