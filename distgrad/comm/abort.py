"""An exception that ends one rank ends the job, and is shown once, in a frame that names the rank.

Without it the rank would wait in MPI_Finalize for ranks that wait for it. It owns the interpreter's
exception hooks while several processes work together; it knows nothing of what they do.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any, NoReturn

from ..config import config
from ..errors import CollectiveMismatchError, RankFailedError
from .base import Communicator
from .deadline import report
from .topology import host

__all__ = ["framed", "install"]

# Seconds that a rank which only suffers from another's error leaves it to show its traceback.
_GRACE = 1.0

_INTERRUPTED = 130  # the exit status of a program that was ended by the interrupt key


def install(comm: Communicator) -> None:
    """From now on an exception that nobody catches on this rank ends the job on all ranks.

    It covers the main thread, other threads, the interrupt key and `sys.exit` with a status other
    than 0. Nothing is installed for one rank, or for ranks that are threads. A second call does nothing.
    """
    if comm.size == 1 or not comm.ranks_are_processes or isinstance(sys.excepthook, _Hook):
        return
    hook = _Hook(comm)
    sys.excepthook = hook
    threading.excepthook = hook.in_thread
    sys.exit = hook.exit


def framed(text: str, title: str) -> str:
    """`text` in a frame with a title, of characters that every terminal and log has."""
    top = f"+-- {title} ".ljust(78, "-")
    return "\n".join([top, *(f"| {line}" for line in text.rstrip().splitlines()), "+" + "-" * (len(top) - 1)])


class _Hook:
    """What the interpreter calls instead of its own hooks."""

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm
        self.who = f"rank {comm.rank} of {comm.size} on {host()}"
        self.plain = sys.excepthook

    def __call__(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        code = _INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1
        try:
            sys.stdout.flush()
            self.show(kind, error, where)
        finally:
            self.comm.abort("", code)

    def in_thread(self, caught: Any) -> None:
        """The same for an exception that ends another thread; SystemExit ends only that thread."""
        if not issubclass(caught.exc_type, SystemExit):
            self(caught.exc_type, caught.exc_value or caught.exc_type(), caught.exc_traceback)

    def show(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        """The traceback in a frame, or one line where another rank is the one to look at."""
        if issubclass(kind, KeyboardInterrupt):
            last = traceback.extract_tb(where)[-1:]
            report(f"{self.who} was interrupted" + "".join(f" at {at.filename}:{at.lineno}" for at in last))
        elif issubclass(kind, RankFailedError) or (issubclass(kind, CollectiveMismatchError) and self.comm.rank):
            report(f"{self.who} stops, because of another rank: {error}")
            time.sleep(_GRACE)
        elif config.traceback == "plain":
            self.plain(kind, error, where)
            sys.stderr.flush()
        else:
            text = "".join(traceback.format_exception(kind, error, where))
            sys.stderr.write(framed(text, self.who) + "\n")
            sys.stderr.flush()

    def exit(self, status: Any = None) -> NoReturn:
        """Stands in for sys.exit."""
        raise _Exit(self, status)

    def exited(self, status: Any) -> None:
        """The interpreter is about to end with what sys.exit was given."""
        if isinstance(status, int):
            if status:
                self.comm.abort(f"sys.exit({status}) was called on {host()}", status)
        elif status is not None:
            self.comm.abort(f"sys.exit was called on {host()}: {status}", 1)


class _Exit(SystemExit):
    """A SystemExit that knows whether it ends the program.

    No hook is called for SystemExit. But whoever handles it reads `code`: a Python handler from its own
    frame, and the interpreter, when nobody caught it, with no frame around. That is when the job ends.
    """

    def __init__(self, hook: _Hook, status: Any) -> None:
        super().__init__(status)
        self.hook = hook
        self.status = status

    @property
    def code(self) -> Any:  # type: ignore[override]
        if sys._getframe().f_back is None:
            self.hook.exited(self.status)
        return self.status
