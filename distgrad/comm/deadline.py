"""How long a wait may last, and what is said when it lasts too long.

It owns the two limits of the configuration and the text of stack dumps. It does not know what is
waited for: the waiting code asks it for the next moment at which to speak or to give up.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterable

from ..config import config

__all__ = ["Deadline", "report", "stacks"]


class Deadline:
    """The soft and the hard limit of one wait, in seconds from its creation."""

    __slots__ = ("begin", "hard", "soft")

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.soft: float | None = config.soft_timeout
        self.hard = config.hard_timeout

    @property
    def waited(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self.begin

    @property
    def remaining(self) -> float:
        """Seconds until the next limit; never negative."""
        limit = self.hard if self.soft is None else min(self.soft, self.hard)
        return max(0.0, limit - self.waited)

    def soft_passed(self) -> bool:
        """True once, when the soft limit has passed."""
        if self.soft is None or self.waited < self.soft:
            return False
        self.soft = None
        return True

    def hard_passed(self) -> bool:
        """True when the wait must be given up."""
        return self.waited >= self.hard


def report(text: str) -> None:
    """Write one message to standard error in one piece, so that ranks do not mix their lines."""
    sys.stderr.write(f"distgrad: {text.rstrip()}\n")
    sys.stderr.flush()


def stacks(threads: Iterable[int] | None = None) -> str:
    """The Python stacks of this process's threads, all or those with the given identities."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    chosen = None if threads is None else set(threads)
    texts = []
    for ident, frame in sys._current_frames().items():
        if chosen is None or ident in chosen:
            lines = "".join(traceback.format_stack(frame))
            texts.append(f"stack of thread {names.get(ident, ident)!r}:\n{lines}")
    return "".join(texts)
