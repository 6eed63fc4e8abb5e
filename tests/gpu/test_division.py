"""Whole quotients and remainders on a GPU against numpy's: `pytest --device cuda tests/gpu`, or standin for cuda."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distgrad import backend

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cuda', 'standin')",
                                reason="needs a CUDA device: --device cuda")


def check(x: Any, y: Any) -> None:
    gpu = backend.get("cuda")
    there = [gpu.from_host(value) if isinstance(value, np.ndarray) else value for value in (x, y)]
    with np.errstate(all="ignore"):
        for name in ("remainder", "floor_divide"):
            expected = getattr(np, name)(x, y)
            found = gpu.to_host(gpu.override(name)(*there))
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} by {y!r}")
            if expected.dtype.kind == "f":  # of zeros too
                known = ~np.isnan(expected)
                np.testing.assert_array_equal(np.signbit(found[known]), np.signbit(expected[known]), err_msg=name)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats_are_divided_as_numpy_does(kind: str) -> None:
    numbers = np.random.default_rng(0)
    x = (numbers.standard_normal(500) * 10).astype(kind)
    x[:7] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0]
    for y in (numbers.standard_normal(500).astype(kind), np.array(0.1, kind), 0.1, -0.3, 2, 0.0):
        check(x, y)
    check(1.0, x)
    check(x.reshape(5, 100), x[:100])


def test_whole_numbers() -> None:
    x = np.arange(-6, 7)
    for y in (x[::-1] * 2 + 1, 4, -4):
        check(x, y)
