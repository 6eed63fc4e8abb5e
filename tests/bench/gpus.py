"""The stand-in for cupy, for as long as a benchmark or the doctor looks at it, with what they ask of devices."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.gpu.present import present

__all__ = ["stand_in"]


@contextmanager
def stand_in(**given: Any) -> Iterator[Any]:
    """Inside, there are such devices; the settings, which may be changed. Afterwards all of it is gone."""
    with present(**given) as settings:
        cupy: Any = sys.modules["cupy"]
        cupy.__version__ = "14.2.0"
        cupy.cuda.Device.compute_capability = "90"
        cupy.cuda.runtime.deviceGetPCIBusId = lambda number: f"0000:{number:02x}:00.0"
        cupy.cuda.runtime.getDeviceProperties = lambda number: {"name": b"Stand-in", "totalGlobalMem": 16 << 20}
        try:
            yield settings
        finally:
            gc.collect()  # what holds memory of theirs is gone before them
