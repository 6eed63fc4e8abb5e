"""The stand-in for cupy is as strict about devices as cupy is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.gpu import standin

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cpu', 'strict')", reason="about hosts alone")


@pytest.fixture
def cupy() -> Iterator[Any]:
    standin.install(devices=2)
    import cupy

    yield cupy
    standin.remove()


def test_arrays_remember_their_device(cupy: Any) -> None:
    a = cupy.array(np.ones((2, 3)))
    with cupy.cuda.Device(1):
        b = cupy.array(np.ones((2, 3)))
        assert (b + b).device.id == b.T.device.id == cupy.zeros(2).device.id == b[0].device.id == 1
    assert (a.device.id, (a + 1).device.id, b.device.id, cupy.cuda.runtime.getDevice()) == (0, 0, 1, 0)
    assert b.copy().device.id == 0, "a copy lies on the current device"
    assert b.get().tolist() == np.ones((2, 3)).tolist() and b.shape == b.reshape(3, 2).T.shape


@pytest.mark.parametrize("launch", [
    lambda cupy, b: b + 1, lambda cupy, b: cupy.exp(b), lambda cupy, b: b.sum(), lambda cupy, b: b.__iadd__(1),
    lambda cupy, b: b.__setitem__(0, 1.0), lambda cupy, b: b[:1].__iadd__(1), lambda cupy, b: b.astype(int),
    lambda cupy, b: cupy.array(np.ones(2)) + b])
def test_a_launch_for_another_device_is_refused(cupy: Any, launch: Any) -> None:
    with cupy.cuda.Device(1):
        b = cupy.array(np.ones(2))
    with pytest.raises(ValueError, match=r"resides \(1\) is different from the current device \(0\)"):
        launch(cupy, b)
    with cupy.cuda.Device(1):
        assert (b + 0).shape == (2,)


def test_the_current_device_is_each_threads_own(cupy: Any) -> None:
    cupy.cuda.Device(1).use()
    found = []
    thread = threading.Thread(target=lambda: found.append(cupy.cuda.runtime.getDevice()))
    thread.start()
    thread.join()
    assert found == [0] and cupy.cuda.runtime.getDevice() == 1
