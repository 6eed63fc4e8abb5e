"""Waiting for other ranks' counters in compiled code: looks that take nanoseconds, and no interpreter lock."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..reference.watch import watch_plan as _reference_plan
from ._memory import address, addresses
from .native import Loop

__all__ = ["LOOKS", "ORDERED", "watch_plan"]

_WATCH = Loop("ranks", "watch", "RNnnnnnn")
LOOKS = 50  # between two yields: a few microseconds
ORDERED = platform.machine() in ("x86_64", "AMD64")  # what was written first is seen first


def watch_plan(rows: Sequence[Any], patience: int) -> Callable[[int, int, int, int], bool]:
    """As the reference; `patience` counts looks, and the core is offered to other processes now and then."""
    loop = _WATCH("int64") if ORDERED else None
    if loop is None:
        return _reference_plan(np, rows, patience)
    table, found = addresses(rows), np.zeros(1, np.int64)
    answer, view = address(found), memoryview(found)
    yields = patience // LOOKS

    def run(column: int, value: int, first: int, last: int) -> bool:
        loop(table, answer, first, last, column, value, LOOKS, yields)
        return view[0] == 1

    run.keeps = rows  # type: ignore[attr-defined]  # what the addresses point to
    return run
