"""Streams and events: what runs beside what on a device, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._backend import backend, placed

__all__ = ["Event", "Stream", "current_stream", "default_stream", "stream"]


class Stream:
    """Work that a device does in order, beside that of its other streams.

    Memory belongs to the stream on which it was made. A tensor that another stream reads must live until that has
    ended: let the stream it was made on wait (`wait_stream`) before the tensor is dropped.

    Args:
        device: where; default the current one.
        priority: lower numbers go first.

    Attributes:
        device: where it is.
        cuda_stream: CUDA's handle, as a number.
    """

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device = placed(device)
        self._queue: Any = backend().new_stream(self.device, priority)

    @classmethod
    def _of(cls, device: Any, queue: Any) -> Stream:
        made = object.__new__(cls)
        made.device, made._queue = device, queue
        return made

    @property
    def cuda_stream(self) -> int:
        return int(self._queue.ptr)

    def record_event(self, event: Event | None = None) -> Event:
        """An event that is reached when what is queued here now has ended."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """What is queued here from now on begins when the event has been reached."""
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        """What is queued here from now on begins when what is queued there now has ended."""
        self.wait_event(stream.record_event())

    def query(self) -> bool:
        """Whether all of it has ended."""
        with backend().using(self.device):
            return bool(self._queue.done)

    def synchronize(self) -> None:
        """Return when all of it has ended."""
        with backend().using(self.device):
            self._queue.synchronize()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (self.device, self.cuda_stream) == (other.device, other.cuda_stream)

    def __hash__(self) -> int:
        return hash((self.device, self.cuda_stream))

    def __repr__(self) -> str:
        return f"<distgrad.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"


class Event:
    """A place in a stream, which is reached when all before it has ended.

    Args:
        enable_timing: let `elapsed_time` measure from it and to it.
        blocking: `synchronize` sleeps, instead of asking again and again.
    """

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self._timed = enable_timing
        self._blocking = blocking
        self._place: Any = None  # made on the device where it is first recorded

    def record(self, stream: Stream | None = None) -> None:
        """Put it behind what is queued on a stream now; default the current one."""
        stream = stream or current_stream()
        with backend().using(stream.device):
            if self._place is None:
                self._place = backend().new_event(self._timed, self._blocking)
            self._place.record(stream._queue)

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream, by default the current one, wait for it."""
        stream = stream or current_stream()
        if self._place is not None:
            with backend().using(stream.device):
                stream._queue.wait_event(self._place)

    def query(self) -> bool:
        """Whether it has been reached; also if it was never recorded."""
        return self._place is None or bool(self._place.done)

    def synchronize(self) -> None:
        """Return when it has been reached."""
        if self._place is not None:
            self._place.synchronize()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to `end`.

        Raises:
            RuntimeError: one of them measures no time, was not recorded, or has not been reached.
        """
        for event in (self, end):
            if not event._timed:
                raise RuntimeError("elapsed_time: both events are made with enable_timing=True")
            if event._place is None or not event.query():
                raise RuntimeError("elapsed_time: both events must have been recorded and reached; "
                                   "call synchronize() first")
        return float(backend().elapsed_time(self._place, end._place))


def current_stream(device: Any = None) -> Stream:
    """The stream on which this thread's work is queued."""
    place = placed(device)
    return Stream._of(place, backend().stream_of(place))


def default_stream(device: Any = None) -> Stream:
    """The stream on which work is queued when nothing is said."""
    return Stream._of(placed(device), backend().default_stream())


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """A context in which this thread's work is queued on a stream, and 'cuda' is its device; None changes nothing."""
    if stream is None:
        yield
        return
    with backend().using(stream.device), stream._queue:
        yield
