"""Events for profilers and tests: what happened, when, on which thread.

It owns the list of listeners and nothing else. An instrumented line costs one truth test of
`listeners` while nobody listens: `if tracing.listeners: tracing.instant("bucket.launch", bucket=3)`.
Whoever wants events appends a callable; `distgrad.profile` writes them as a Chrome trace.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Event", "emit", "instant", "listen", "listeners", "span"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Times are `time.perf_counter_ns()`; an instant has end == begin."""

    name: str
    begin: int
    end: int
    thread: int
    data: dict[str, Any] = field(default_factory=dict)


listeners: list[Callable[[Event], None]] = []


def emit(name: str, begin: int, end: int, data: dict[str, Any]) -> None:
    """Hand one event to every listener, in the order in which they were added."""
    event = Event(name, begin, end, threading.get_ident(), data)
    for listener in tuple(listeners):
        listener(event)


def instant(name: str, **data: Any) -> None:
    """Report that something happened now."""
    if listeners:
        now = time.perf_counter_ns()
        emit(name, now, now, data)


@contextmanager
def span(name: str, **data: Any) -> Iterator[None]:
    """Report how long the body took. Guard hot calls with `if tracing.listeners`."""
    if not listeners:
        yield
        return
    begin = time.perf_counter_ns()
    try:
        yield
    finally:
        emit(name, begin, time.perf_counter_ns(), data)


@contextmanager
def listen(listener: Callable[[Event], None]) -> Iterator[None]:
    """Add a listener for the length of the body."""
    listeners.append(listener)
    try:
        yield
    finally:
        listeners.remove(listener)
