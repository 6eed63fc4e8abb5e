"""Memory that copies still use, though nobody else may hold on to it.

A copy is queued on a stream and runs later. If what it reads or writes is freed meanwhile, cupy's pools would give it
to whoever asks next: they know of the stream on which memory was taken, and of no other. So it is held here.
"""

from __future__ import annotations

import threading
from typing import Any

import cupy

__all__ = ["InFlight", "in_flight"]


class InFlight:
    """What copies that were not waited for still use, let go when they have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[tuple[Any, tuple[Any, ...]]] = []

    def keep(self, stream: Any, *memory: Any) -> Any:
        """Hold on to arrays until all that is on `stream` now has ended; the event that says so."""
        ended = cupy.cuda.Event(block=False, disable_timing=True)
        ended.record(stream)
        self.let_go((ended, memory))
        return ended

    def let_go(self, *more: tuple[Any, tuple[Any, ...]]) -> None:
        """Forget what has ended. It is asked at each new copy, and before an allocation is given up."""
        with self._lock:
            before = self._kept
            self._kept = [pair for pair in before if not pair[0].done]
            self._kept.extend(more)
        del before  # frees memory, and what frees memory may call anything: not under the lock


in_flight = InFlight()
