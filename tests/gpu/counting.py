"""What crosses between the host and a stand-in's devices, and what waits for them: every way that cupy has, counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distgrad.backend.strict import StrictArray, transfers

__all__ = ["counted"]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Inside, calls are counted: 'to device', 'to host', 'waits', and 'values' that are read one by one."""
    cupy: Any = sys.modules["cupy"]
    found: Counter[str] = Counter()
    undo: list[tuple[Any, str, Any]] = []

    def watch(owner: Any, name: str, kind: str, counts: Callable[..., bool] = lambda *args: True) -> None:
        before = getattr(owner, name)

        def watched(*args: Any, **options: Any) -> Any:
            if counts(*args):
                found[kind] += 1
            return before(*args, **options)

        undo.append((owner, name, before))
        setattr(owner, name, watched)

    watch(StrictArray, "get", "to host")
    watch(StrictArray, "set", "to device")
    watch(cupy, "array", "to device", lambda given, *more: not isinstance(given, StrictArray))
    watch(cupy.cuda.Event, "synchronize", "waits")
    watch(cupy.cuda.runtime, "deviceSynchronize", "waits")
    if hasattr(cupy.cuda.Stream, "synchronize"):
        watch(cupy.cuda.Stream, "synchronize", "waits")
    transfers.reset()  # the stand-in's other functions are the strict device's, which counts itself
    try:
        yield found
    finally:
        for owner, name, before in undo:
            setattr(owner, name, before)
        found["to device"] += transfers.from_host
        found["to host"] += transfers.to_host
        found["values"] += transfers.scalars
        for kind in [kind for kind, count in found.items() if not count]:
            del found[kind]

