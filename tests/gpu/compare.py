"""A kernel of the GPU beside the reference over numpy: what the tests of kernels share."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from distgrad import backend
from distgrad.backend.reference import find
from distgrad.backend.reference._register import REGISTRY

__all__ = ["TOLERANCE", "every_kind", "gpu", "needs_a_device", "numbers", "same", "there"]

needs_a_device = pytest.mark.skipif("config.getoption('--device') not in ('cuda', 'standin')",
                                    reason="needs a CUDA device: --device cuda")
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-11, "atol": 1e-13},
             "float16": {"rtol": 2e-3, "atol": 2e-3}}
every_kind = pytest.mark.parametrize("kind", ["float32", "float64"])


def gpu() -> Any:
    return backend.get("cuda")


def numbers(kind: str, *shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(kind)


def there(value: Any) -> Any:
    return gpu().from_host(value) if isinstance(value, np.ndarray) else value


def same(name: str, kind: str, *args: Any, changed: bool = False, alone: bool = False) -> None:
    """A kernel's results, or what it changed in its arguments, are the reference's.

    Args:
        alone: it must not hand these arguments to the reference.
    """
    copies = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    given = [there(a) for a in args]
    assert gpu().override(name) is not None
    reference, used = find(name), []
    REGISTRY[name] = lambda *arguments: (used.append(name), reference(*arguments))[1]
    try:
        found = getattr(gpu().kernels, name)(*given)
    finally:
        REGISTRY[name] = reference
    assert not (alone and used), f"{name} used the reference"
    expected = partial(reference, np)(*copies)
    if changed:
        found, expected = given, copies
    for mine, theirs in zip(*[x if isinstance(x, (tuple, list)) else (x,) for x in (found, expected)], strict=True):
        if isinstance(theirs, (np.ndarray, np.generic)):
            mine = gpu().to_host(mine)
            assert mine.dtype == theirs.dtype and mine.shape == np.shape(theirs)
            np.testing.assert_allclose(mine, theirs, **TOLERANCE[kind])
        else:
            assert (mine is None) == (theirs is None)
