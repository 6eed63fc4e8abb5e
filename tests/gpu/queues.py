"""Streams, events and pinned memory of the stand-in for cupy.

With `lazy`, copies from and to pinned memory are done as late as CUDA may do them: when something waits for their
stream, or launches on it. Pinned blocks that nobody holds go to the next who asks, as cupy's pool gives them.
"""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Event", "PinnedPool", "Stream", "current_stream", "elapsed_time", "reset", "run_all"]

_lock = threading.RLock()
_streams: weakref.WeakSet[Stream] = weakref.WeakSet()
_device: Callable[[], int] = lambda: 0
_lazy: Callable[[], bool] = lambda: False


class _Thread(threading.local):
    def __init__(self) -> None:
        self.current: dict[int, Stream] = {}
        self.before: list[tuple[int, Stream | None]] = []


_thread = _Thread()


class Stream:
    """Work in order. `null` is the stream on which everything is queued that names no other one."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False,
                 priority: int | None = None) -> None:
        self.device_id = -1 if null else _device()
        self.ptr = 0 if null else id(self)
        self.queued = self.ended = 0
        self._work: deque[Callable[[], object]] = deque()
        _streams.add(self)

    @property
    def done(self) -> bool:
        return self.ended >= self.queued

    def put(self, work: Callable[[], object]) -> None:
        """Queue it; at once, unless copies are lazy."""
        self.queued += 1
        self._work.append(work)
        if not _lazy():
            self.run()

    def run(self, until: int | None = None) -> None:
        """Do what was queued, up to that number."""
        with _lock:
            while self._work and (until is None or self.ended < until):
                self._work.popleft()()
                self.ended += 1

    def synchronize(self) -> None:
        self.run()

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)
        self.put(event.synchronize)

    def use(self) -> Stream:
        _thread.current[_device()] = self
        return self

    def __enter__(self) -> Stream:
        device = _device()
        _thread.before.append((device, _thread.current.get(device)))
        return self.use()

    def __exit__(self, *error: Any) -> None:
        device, before = _thread.before.pop()
        _thread.current.pop(device, None)
        if before is not None:
            _thread.current[device] = before


Stream.null = Stream(null=True)


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.timed = not disable_timing
        self.at = 0.0
        self._place: tuple[Stream, int] | None = None

    @property
    def done(self) -> bool:
        return self._place is None or self._place[0].ended >= self._place[1]

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or Stream.null
        stream.put(self._reached)
        self._place = stream, stream.queued

    def _reached(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        if self._place is not None:
            self._place[0].run(self._place[1])


def elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds between two events that have been reached."""
    assert start.timed and end.timed and start.done and end.done and start.at and end.at
    return (end.at - start.at) * 1e3


def current_stream(device_id: int = -1) -> Stream:
    """This thread's stream on a device, by default the current one."""
    return _thread.current.get(_device() if device_id < 0 else device_id, Stream.null)


def run_all() -> None:
    """The device is synchronized."""
    for stream in list(_streams):
        stream.run()


def reset(device: Callable[[], int], lazy: Callable[[], bool]) -> None:
    """Begin anew: which device is current, and whether copies are late, is asked from these."""
    global _device, _lazy
    run_all()
    _device, _lazy = device, lazy
    _thread.current.clear()


class PinnedPool:
    """Blocks of the host's memory; the last one that was given back is the next one that is handed out.

    Args:
        spans: where it notes them, address -> size.
        room: how many bytes there are.
        error: what is raised when there are no more.
    """

    def __init__(self, spans: dict[int, int], room: Callable[[], int], error: Callable[[], Exception]) -> None:
        self._spans, self._room, self._error = spans, room, error
        self._free: dict[int, list[bytearray]] = {}
        self._taken = 0

    def malloc(self, size: int) -> Any:
        free = self._free.setdefault(size, [])
        if not free:
            if self._taken + size > self._room():
                raise self._error()
            self._taken += size
        block = free.pop() if free else bytearray(size)
        self._spans[_address(block)] = size
        found = (ctypes.c_char * size).from_buffer(block)
        weakref.finalize(found, free.append, block).atexit = False
        return found

    def free_all_blocks(self) -> None:
        for size, blocks in self._free.items():
            for block in blocks:
                del self._spans[_address(block)]
                self._taken -= size
            blocks.clear()

    def n_free_blocks(self) -> int:
        return sum(map(len, self._free.values()))


def _address(block: bytearray) -> int:
    return int(np.frombuffer(block, np.uint8).__array_interface__["data"][0])
