"""Which device 'cuda' is: of each rank another one, in every thread of it, unless somebody has said otherwise.

CUDA's current device belongs to a thread, and is number 0 in a new one. So a thread takes the rank's device when it
first asks for one here; `select` and `using` say otherwise for the thread, and in the main thread for new ones too.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any

import cupy

from ...config import launcher
from ...errors import current_rank

__all__ = ["current", "select", "using"]


class _Thread(threading.local):
    settled = False


_thread = _Thread()
_chosen: int | None = None  # in the main thread, by `select`


def current() -> int:
    """The number of this thread's device."""
    if not _thread.settled:
        _thread.settled = True
        if not _now():  # else somebody has chosen through cupy
            number = _of_rank() if _chosen is None else _chosen
            if number:
                cupy.cuda.runtime.setDevice(number)
    return _now()


def select(number: int) -> None:
    """Make it this thread's device; in the main thread, also that of threads which have none yet."""
    global _chosen
    _thread.settled = True
    cupy.cuda.runtime.setDevice(number)
    if threading.current_thread() is threading.main_thread():
        _chosen = number


def using(number: int) -> AbstractContextManager[Any]:
    """A context in which it is this thread's device."""
    current()  # what it returns to
    context: AbstractContextManager[Any] = cupy.cuda.Device(number)
    return context


def _now() -> int:
    return int(cupy.cuda.runtime.getDevice())


def _of_rank() -> int:
    """The local rank's device, modulo how many there are. Before MPI has started only its launcher knows the rank."""
    launched = launcher()
    rank = None if launched is None else launched.local_rank
    if rank is None:
        rank = current_rank.get() or 0
    return rank % int(cupy.cuda.runtime.getDeviceCount())
