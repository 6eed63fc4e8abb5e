"""Tensors made from others, closeness, and short names that scripts use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad


def test_new_tensors_take_dtype_and_sizes() -> None:
    x = distgrad.ones(2, dtype=distgrad.float64)
    assert x.new_zeros(2, 3).dtype == np.float64 and x.new_zeros((2, 3)).shape == (2, 3)
    assert x.new_full((2,), 7).tolist() == [7.0, 7.0]
    assert x.new_ones(1, dtype=distgrad.int32).dtype == np.int32
    assert x.new_tensor([1, 2], requires_grad=True).requires_grad and x.new_tensor([1]).dtype == np.float64
    assert x.new_empty(0).shape == (0,)


def test_closeness() -> None:
    a, b = distgrad.tensor([1.0, float("nan")]), distgrad.tensor([1.0 + 1e-7, float("nan")])
    assert a.isclose(b).tolist() == [True, False]
    assert not a.allclose(b) and a.allclose(b, equal_nan=True)
    assert distgrad.equal(a[:1], a[:1]) and not a.equal(a) and not a.equal(a[:1])
    with pytest.raises(RuntimeError, match="dtype"):
        a.allclose(b.double())


def test_nan_to_num_passes_gradients_where_nothing_was_replaced() -> None:
    x = distgrad.tensor([1.0, float("nan"), float("inf"), float("-inf")], requires_grad=True)
    y = x.nan_to_num(nan=5.0, posinf=9.0)
    assert y.tolist() == [1.0, 5.0, 9.0, float(np.finfo("f4").min)]
    y.sum().backward()
    assert x.grad.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("dtype", [distgrad.float16, distgrad.float32, distgrad.float64])
def test_numbers_beside_tensors_widen_nothing(dtype: Any) -> None:
    x = distgrad.tensor([0.0, 2.0], dtype=dtype)
    for y in (x.xlogy(2), x.xlogy(2.0), distgrad.xlogy(3, x + 1), x.hypot(2), x.logaddexp(2), x.lgamma(), x.erfc()):
        assert y.dtype == dtype
    np.testing.assert_allclose(x.xlogy(2).numpy(), [0, 2 * np.log(2)], rtol=1e-3)
    assert distgrad.ones(2, dtype=distgrad.complex64).xlogy(2).dtype == distgrad.complex64


@pytest.mark.parametrize("dtype", [distgrad.bool, distgrad.int64, distgrad.float32, distgrad.complex64])
def test_logic_takes_every_type(dtype: Any) -> None:
    x, y = distgrad.tensor([0, 1, 0, 1], dtype=dtype), distgrad.tensor([0, 0, 1, 1], dtype=dtype)
    assert x.logical_and(y).tolist() == [False, False, False, True]
    assert x.logical_or(y).tolist() == [False, True, True, True]
    assert x.logical_xor(y).tolist() == [False, True, True, False]
    assert x.logical_not().tolist() == [True, False, True, False]


def test_bounds_and_conversions() -> None:
    x = distgrad.tensor([-1.0, 2.0])
    assert x.clamp_min(0).tolist() == [0, 2] and x.clamp_max(0).tolist() == [-1, 0]
    assert x.clamp_min_(0) is x and x.tolist() == [0, 2]
    assert (x.short().dtype, x.byte().dtype, x.char().dtype) == (np.int16, np.uint8, np.int8)
    assert x.is_cuda == (x.device.type == "cuda")
