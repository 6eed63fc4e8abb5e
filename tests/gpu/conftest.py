"""The stand-in for cupy, for tests on machines without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from distgrad.backend import base
from tests.gpu import standin


@pytest.fixture
def cupy() -> Iterator[Any]:
    """A stand-in, whose settings a test changes; it is gone afterwards, with the backend that was made of it."""
    strict = base.get("strict")
    before = dict(base._BY_NAME), dict(base._BY_TYPE)
    for name in [name for name in sys.modules if name.startswith("distgrad.backend.gpu")]:
        del sys.modules[name]
    yield standin.install()
    standin.remove()
    base._BY_NAME.clear(), base._BY_TYPE.clear()
    base._BY_NAME.update(before[0]), base._BY_TYPE.update(before[1])
    assert base.get("strict") is strict
