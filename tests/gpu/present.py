"""The stand-in for cupy, there for a while, in tests that otherwise run on the host."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distgrad.backend import base
from tests.gpu import standin

__all__ = ["present"]


@contextmanager
def present(**given: Any) -> Iterator[standin.Settings]:
    """Its settings, which may be changed; it is gone afterwards, with the backend that was made of it."""
    strict = base.get("strict")
    before = dict(base._BY_NAME), dict(base._BY_TYPE)
    for name in [name for name in sys.modules if name.startswith("distgrad.backend.gpu")]:
        del sys.modules[name]
    try:
        yield standin.install(**given)
    finally:
        standin.remove()
        base._BY_NAME.clear(), base._BY_TYPE.clear()
        base._BY_NAME.update(before[0]), base._BY_TYPE.update(before[1])
        assert base.get("strict") is strict
