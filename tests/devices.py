"""The suite on another device: `pytest --device strict` makes tensors there unless a test says otherwise.

Tests are written for the host. While they run on another device, they may read what the package may not: `t.numpy()`,
`np.asarray(t)` and `np.asarray(t.array)` give a copy when the line that asks stands in a test, and
`from_numpy` makes a tensor on the device. LEFT_OUT says which tests do not make sense there, and why.
"""

from __future__ import annotations

import operator
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import backend
from distgrad._tensor import creation
from distgrad.backend import dtypes, strict
from distgrad.backend.strict import array as strict_array
from distgrad.graph import base
from tests.gpu import standin

ROOT = str(Path(__file__).parent)
PACKAGE = str(Path(distgrad.__file__).parent)
STRICT = str(Path(PACKAGE) / "backend" / "strict")

# Part of a test's path or name -> why it is left out on a device that is not the host.
LEFT_OUT = {
    "^tests/(bench|cli|examples|hosts)/": "programs of their own, which choose their devices",
    "autograd/test_numpy_protocol": "numpy's functions take tensors of the host",
    "autograd/test_dlpack": "memory of the host is exchanged",
    "graph/test_guard_and_packing.*(holds?_|hold_|guard_(steps|catches))": "numpy's flag guards memory of the host",
    "test_refus.*writing_to_sharded": "only memory of the host can be made read-only",
    "distributed/test_sharded.py.*(writes_are_refused|one_copy)": "memory of a device is not shared and not read-only",
    "distributed/test_sharded_gradients": "gradients on a device are replicated, also under a sharded optimizer",
    "ops/test_attention.*results_lie_as": "where results lie is a matter of the host's compiled kernel",
}


def _asked_by_a_test(skip: str = "") -> bool:
    """Whether the innermost caller that is neither numpy, this file nor a file of `skip` belongs to the tests."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and not (skip and path.startswith(skip)):
            return False
        if path.startswith(ROOT) and path != __file__:
            return True
        frame = frame.f_back
    return False


def move_to(device: str) -> None:
    """Make `device` the default, and let tests read from it."""
    if device == "standin":
        standin.install()
        device = "cuda"
    distgrad.set_default_device(device)
    for module in (distgrad.autograd.gradcheck, distgrad.nn, distgrad.data):  # the package itself keeps from_numpy
        assert module
    kind = backend.get(device).array_type
    distgrad.from_numpy = creation.from_numpy = _from_numpy  # type: ignore[assignment]
    tensor_numpy, closed = distgrad.Tensor.numpy, kind.__array__

    def numpy(self: Any, *, force: bool = False) -> np.ndarray:
        if force or self.requires_grad or not _asked_by_a_test():
            return tensor_numpy(self, force=force)
        return _read(self.array)

    def tensor_array(self: Any, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if _asked_by_a_test() and not self.requires_grad:
            return np.array(_read(self.array), dtype=dtype, copy=copy)
        return np.array(tensor_numpy(self), dtype=dtype, copy=copy)

    def array(self: Any, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(_read(self), dtype=dtype, copy=copy) if _asked_by_a_test() else closed(self, dtype, copy)

    distgrad.Tensor.numpy, distgrad.Tensor.__array__ = numpy, tensor_array  # type: ignore[method-assign]
    kind.__array__ = array
    if kind is strict.StrictArray:
        _open_strict(kind)


def _from_numpy(array: Any) -> Any:
    """A tensor on the default device; on the strict one it shares the memory, as tests of views expect."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy takes a numpy array, got {type(array).__name__}")
    if backend.get(distgrad.get_default_device()).array_type is not strict.StrictArray:
        return distgrad.tensor(array)
    dtypes.category(array.dtype)
    return base.wrap(strict.StrictArray(array))


def _read(value: Any) -> Any:
    """The value with every array of a device replaced by what is in it: its very memory on the strict device."""
    if isinstance(value, (list, tuple)):
        return type(value)([_read(part) for part in value])
    if isinstance(value, dict):
        return {key: _read(part) for key, part in value.items()}
    if type(value) is strict.StrictArray:
        return value._memory
    return backend.of(value).to_host(value) if isinstance(value, backend.DeviceArray) else value


def _open_strict(kind: Any) -> None:
    """numpy's functions and operators, called by tests."""
    refused, refuse = kind.__array_function__, strict_array.refuse

    def function(self: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return func(*_read(args), **_read(kwargs)) if _asked_by_a_test() else refused(self, func, types, args, kwargs)

    def ufunc(self: Any, called: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if not _asked_by_a_test():
            raise TypeError(f"numpy.{called.__name__} was called with an array of the strict device")
        return getattr(called, method)(*_read(inputs), **_read(kwargs))

    def number(convert: Any) -> Any:
        return lambda self: convert(self._memory) if _asked_by_a_test() else self._no_number()

    kind.__array_function__, kind.__array_ufunc__ = function, ufunc
    kind.__float__, kind.__int__, kind.__index__ = number(float), number(int), number(operator.index)
    strict_array.refuse = lambda host: host if _asked_by_a_test(skip=STRICT) else refuse(host)


def leave_out(items: list[pytest.Item]) -> None:
    """Skip what does not make sense on another device, with the reason."""
    for item in items:
        name = item.nodeid
        for part, reason in LEFT_OUT.items():
            if re.search(part, name):
                item.add_marker(pytest.mark.skip(reason=f"not on this device: {reason}"))
                break
