"""Stopping together: a signal to any one rank becomes every rank's knowledge at the same step.

A handler only sets a flag. The flag travels with the control message of the next backward, so that
`model.stop_requested` turns true on all ranks after the same one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from types import FrameType

__all__ = ["STOP_SIGNALS", "stop_on_signals", "this_process_was_asked"]

# What batch systems send ahead of the end: SIGTERM, and USR2 where USR1 is left to communication libraries.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)

_asked = False


def stop_on_signals(signals: Iterable[int] = STOP_SIGNALS) -> None:
    """From now on these signals no longer end the process, but ask all ranks to stop after the same step.

    Call it in the main thread of every rank; `model.stop_requested` says when. One that comes a second
    time does what it did before. On simulated ranks, which are threads, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before = {number: signal.getsignal(number) for number in signals}

    def note(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = True
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)


def this_process_was_asked() -> bool:
    """Whether such a signal has come to this process."""
    return _asked
