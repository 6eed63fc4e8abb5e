"""bfloat16 by integer arithmetic: every value, every way to round, and what is no number."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from distgrad.backend import get
from distgrad.backend.reference import find as reference

kernels = get("cpu").kernels
EVERY = np.arange(1 << 16, dtype=np.uint16)


def encode(x: np.ndarray) -> np.ndarray:
    out = np.full(x.size, 0xABCD, np.uint16)
    kernels.to_bfloat16(x, out)
    return out


def decode(bits: np.ndarray, dtype: str = "float32") -> np.ndarray:
    out = np.full(bits.size, 7, dtype)
    kernels.from_bfloat16(bits, out)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_value_survives(dtype: str) -> None:
    values = decode(EVERY, dtype)
    numbers = ~np.isnan(values)
    assert values.dtype == dtype and np.isnan(values).sum() == 2 * 127  # two signs, fractions 1 to 127
    np.testing.assert_array_equal(encode(values)[numbers], EVERY[numbers])
    assert np.isnan(decode(encode(values))[~numbers]).all()
    np.testing.assert_array_equal(np.signbit(values), EVERY >= 0x8000)


def test_what_the_bits_mean() -> None:
    named = {0x0000: 0.0, 0x3F80: 1.0, 0xC040: -3.0, 0x3E20: 0.15625, 0x7F80: np.inf, 0xFF80: -np.inf,
             0x7F7F: (2 - 2.0 ** -7) * 2.0 ** 127, 0x0001: 2.0 ** -133, 0x0080: 2.0 ** -126}
    bits = np.array(list(named), np.uint16)
    np.testing.assert_array_equal(decode(bits, "float64"), list(named.values()))
    np.testing.assert_array_equal(encode(np.array(list(named.values()), "float32")), bits)


def test_rounding_is_to_nearest_and_ties_to_even() -> None:
    """Between each two neighbours: below the middle down, above it up, and in it to the even one."""
    low = np.arange(0x0000, 0x7F7F, dtype=np.uint32)
    for below, to_upper in ((0x7FFF, low < 0), (0x8000, low % 2 == 1), (0x8001, low >= 0)):
        values = (low << 16 | below).view("float32")
        expected = (low + to_upper).astype(np.uint16)
        np.testing.assert_array_equal(encode(values), expected)
        np.testing.assert_array_equal(encode(-values), expected | 0x8000)
    largest = np.array([0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF], np.uint32).view("float32")
    np.testing.assert_array_equal(encode(largest), [0x7F7F, 0x7F80, 0x7F80])


def test_rounding_of_random_numbers_is_the_nearest_value() -> None:
    values = np.random.default_rng(0).standard_normal(500).astype("float32")
    neighbours = np.sort(decode(EVERY[EVERY != 0x8000])[np.isfinite(decode(EVERY[EVERY != 0x8000]))])
    for value, found in zip(values, decode(encode(values)), strict=True):
        place = np.searchsorted(neighbours, value)
        distances = [abs(Fraction(float(x)) - Fraction(float(value))) for x in neighbours[place - 1:place + 1]]
        assert abs(Fraction(float(found)) - Fraction(float(value))) == min(distances)


def test_nan_stays_nan_whatever_its_bits() -> None:
    patterns = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000, 0x7F80FFFF], np.uint32)
    found = encode(patterns.view("float32"))
    assert np.isnan(decode(found)).all()
    np.testing.assert_array_equal(found >> 15, patterns >> 31)
    mixed = np.array([np.nan, 1, np.inf, -np.nan, -np.inf, 2.0 ** 100], "float32")
    np.testing.assert_array_equal(decode(encode(mixed)), mixed)


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 40000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_pieces_and_dtypes(size: int, dtype: str) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    kept = x.copy()
    found = decode(encode(x), dtype)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(found, decode(encode(x.astype("float32"))).astype(dtype))
    assert (np.abs(found - x) <= np.abs(x) * 2.0 ** -8).all()
    np.testing.assert_array_equal(encode(found), encode(x))


def test_what_does_not_fit_becomes_infinite_without_a_warning() -> None:
    np.testing.assert_array_equal(decode(encode(np.array([1e300, -1e300, 1e-300]))), [np.inf, -np.inf, 0])
    np.testing.assert_array_equal(decode(encode(np.array([1e30, 2.0], "float32")), "float16"), [np.inf, 2])


def test_another_implementation_agrees() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = np.random.default_rng(1).integers(0, 1 << 32, 50_000, np.uint32).view("float32")
    x = x[~np.isnan(x)]
    np.testing.assert_array_equal(encode(x), x.astype(bfloat16).view(np.uint16))


def test_compiled_bits_are_those_of_the_reference() -> None:
    patterns = np.random.default_rng(2).integers(0, 1 << 32, 100_003, np.uint32)
    patterns[:65536] = np.arange(65536, dtype=np.uint32) << 16 | patterns[:65536] & 0xFFFF
    values, out = patterns.view("float32"), np.empty(patterns.size, np.uint16)
    reference("to_bfloat16")(np, values, out)
    np.testing.assert_array_equal(encode(values), out)
    back = np.empty(out.size, "float32")
    reference("from_bfloat16")(np, out, back)
    np.testing.assert_array_equal(decode(out).view(np.uint32), back.view(np.uint32))
    np.testing.assert_array_equal(decode(out[::2]), back[::2])  # not contiguous
