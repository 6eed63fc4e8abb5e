"""How products of float32 matrices are taken, for a stretch of code: in full precision, or by TF32.

What the process does otherwise is set once, by DISTGRAD_TF32; this is for who compares the two.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import cupy
import numpy as np

__all__ = ["float32_products"]

_FIRST_WITH_TF32 = 80  # compute capability 8.0


@contextmanager
def float32_products(tf32: bool) -> Iterator[bool]:
    """Inside, cupy multiplies float32 matrices with TF32 or without; False if the device or this cupy cannot."""
    if tf32 and int(cupy.cuda.Device().compute_capability) < _FIRST_WITH_TF32:
        yield False
        return
    try:
        linalg = importlib.import_module("cupy._core._routines_linalg")
        before = linalg.get_compute_type("f")
        linalg.set_compute_type(np.dtype("float32"), linalg.COMPUTE_TYPE_TF32 if tf32 else linalg.COMPUTE_TYPE_FP32)
    except (ImportError, AttributeError):  # they are no part of cupy's public interface
        yield False
        return
    try:
        yield True
    finally:
        linalg.set_compute_type(np.dtype("float32"), before)
