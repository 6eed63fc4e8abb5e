"""The stand-in for cupy, there for a while, in tests that otherwise run on the host."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distgrad.backend import base
from distgrad.backend.strict import StrictArray
from distgrad.graph import engine, function, guard
from distgrad.ops import inplace
from distgrad.ops._kernels import Kernels, Slopes
from tests.gpu import standin

__all__ = ["present"]

# What puts other functions there when there are several devices.
FOLLOWING = ((function.Function, "apply"), (engine, "_walk"), (engine, "_visit"), (guard, "_at"), (inplace, "_copy"))


@contextmanager
def present(**given: Any) -> Iterator[standin.Settings]:
    """Its settings, which may be changed; it is gone afterwards, with the backend that was made of it."""
    strict = base.get("strict")
    before = dict(base._BY_NAME), dict(base._BY_TYPE), list(base._waiting)
    functions = [(owner, name, vars(owner)[name]) for owner, name in FOLLOWING]
    for name in [name for name in sys.modules if name.startswith("distgrad.backend.gpu")]:
        del sys.modules[name]
    forget_kernels()
    try:
        yield standin.install(**given)
    finally:
        standin.remove()
        forget_kernels()
        for owner, name, found in functions:
            setattr(owner, name, found)
        base._BY_NAME.clear(), base._BY_TYPE.clear()
        base._BY_NAME.update(before[0]), base._BY_TYPE.update(before[1])
        base._waiting[:] = before[2]
        assert base.get("strict") is strict


def forget_kernels() -> None:
    """Operations remember which kernel serves an array type; stand-in and strict device share theirs."""
    for found in gc.get_objects():
        if isinstance(found, (Kernels, Slopes)):
            found.pop(StrictArray, None)
