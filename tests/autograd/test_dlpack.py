"""DLPack: memory shared with numpy both ways, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad.utils.dlpack import from_dlpack, to_dlpack


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool", "complex64"])
def test_numpy_reads_and_writes_the_tensor(dtype: str) -> None:
    t = dg.zeros(2, 3, dtype=dtype)
    array = np.from_dlpack(t)
    assert array.dtype == dtype and array.shape == (2, 3) and np.shares_memory(array, t.array)
    t[1, 2] = 1
    assert array[1, 2] == 1
    assert t.__dlpack_device__() == (1, 0)


class Producer:
    """Another library's array: nothing but the protocol."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array = array
        self.device = device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_tensors_over_foreign_memory() -> None:
    array = np.arange(6.0).reshape(2, 3).T
    for source in (array, Producer(array), dg.from_numpy(array)):
        t = dg.from_dlpack(source)
        assert isinstance(t, dg.Tensor) and t.shape == (3, 2) and t.dtype == dg.float64
        assert np.shares_memory(t.array, array)
        t[0, 0] += 1
    assert array[0, 0] == 3
    t = dg.from_dlpack(array).requires_grad_()
    (t * t).sum().backward()
    np.testing.assert_array_equal(t.grad.numpy(), 2 * array)


def test_copies_and_devices() -> None:
    array = np.ones(3)
    assert not np.shares_memory(dg.from_dlpack(array, copy=True).array, array)
    assert np.shares_memory(dg.from_dlpack(array, device="cpu", copy=False).array, array)


def test_read_only_memory_stays_read_only() -> None:
    array = np.ones(3)
    array.flags.writeable = False
    with pytest.raises(RuntimeError, match="read-only"):
        dg.from_dlpack(array).add_(1)


def test_capsules() -> None:
    t = dg.ones(3)
    made = from_dlpack(to_dlpack(t))
    assert made.tolist() == [1, 1, 1] and np.shares_memory(made.array, t.array)


def test_a_tensor_that_requires_grad_is_refused() -> None:
    t = dg.ones(3, requires_grad=True)
    for call in (lambda: np.from_dlpack(t), lambda: dg.from_dlpack(t), lambda: to_dlpack(t), lambda: t.__dlpack__()):
        with pytest.raises(BufferError, match="detach"):
            call()
    assert np.from_dlpack(t.detach()).tolist() == [1, 1, 1]


def test_what_is_no_array_is_refused() -> None:
    for thing in (3, [1, 2], "text"):
        with pytest.raises(RuntimeError, match="__dlpack__"):
            dg.from_dlpack(thing)
    with pytest.raises(RuntimeError, match="kind 7"):
        dg.from_dlpack(Producer(np.ones(2), (7, 0)))
