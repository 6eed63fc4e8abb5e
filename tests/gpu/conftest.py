"""The stand-in for cupy, for tests on machines without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gpu.present import present


@pytest.fixture
def cupy() -> Iterator[Any]:
    """A stand-in, whose settings a test changes; it is gone afterwards."""
    with present() as settings:
        yield settings
