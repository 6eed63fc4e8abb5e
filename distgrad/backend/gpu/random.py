"""Random numbers made on the device: a counter-based stream under a key that is drawn on the host."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from .kernels.launch import over_lines

__all__ = ["uniform"]


def uniform(stream: Any, shape: tuple[int, ...]) -> Any:
    """float32 numbers from [0, 1); the same state of the host's stream gives the same ones."""
    out = cupy.empty(shape, "float32")
    count = math.prod(shape)
    over_lines("lines", "uniform", np.dtype("float32"), -(-count // 4), out, count,
               np.uint64(stream.integers(0, 1 << 64, dtype=np.uint64)))
    return out
