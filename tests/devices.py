"""The suite on another device: `pytest --device strict` makes tensors there unless a test says otherwise.

Tests are written for the host. While they run on another device, they may read what the package may not: `t.numpy()`,
`np.asarray(t)` and `np.asarray(t.array)` give a copy when the line that asks stands in a test, and
`from_numpy` makes a tensor on the device. LEFT_OUT says which tests do not make sense there, and why.
"""

from __future__ import annotations

import operator
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import backend
from distgrad._tensor import creation
from distgrad.backend import dtypes, strict
from distgrad.backend.strict import array as strict_array
from distgrad.data import processes
from distgrad.graph import base
from tests.gpu import standin

ROOT = str(Path(__file__).parent)
PACKAGE = str(Path(distgrad.__file__).parent)
STRICT = str(Path(PACKAGE) / "backend" / "strict")

# Part of a test's path or name -> why it is left out on a device that is not the host.
LEFT_OUT: dict[str, str] = {
    "^tests/(bench|cli|examples|hosts)/": "programs of their own, which choose their devices",
    "autograd/test_numpy_protocol": "numpy's functions take tensors of the host",
    "autograd/test_dlpack": "memory of the host is exchanged",
    "graph/test_guard_and_packing.*(holds?_|hold_|guard_(steps|catches))": "numpy's flag guards memory of the host",
    "test_refus.*writing_to_sharded": "only memory of the host can be made read-only",
    "distributed/test_sharded.py.*(writes_are_refused|one_copy)": "memory of a device is not shared and not read-only",
    "distributed/test_sharded_gradients": "gradients on a device are replicated, also under a sharded optimizer",
    "data/test_processes.*(everything_that|large_batches|a_kill_at)": "worker processes are given memory of the host",
    "ops/test_attention.*results_lie_as": "where results lie is a matter of the host's compiled kernel",
}
# The same for GPUs alone: the strict device's memory is the host's, and its mathematics are numpy's.
_NOT_FOUND = "on a GPU an index or a value out of range is not found, for asking would mean to wait"
LEFT_OUT_ON_GPUS: dict[str, str] = {
    r"ops/test_index.*test_wrong_keys\[in tensor\]": _NOT_FOUND,
    "ops/test_loss.*test_bad_targets.*IndexError": _NOT_FOUND,
    "ops/test_loss.*test_errors.*(target 9|with_logits)": _NOT_FOUND,
    "nn/test_layers.*test_embedding_refuses": _NOT_FOUND,
    r"distributed/test_clip_edits.*\[halve arrays": "on a GPU numpy() is a copy, through which nothing is written",
    "distributed/test_refusals.*a_device_that_is_not_here": "it is here",
    "graph/test_writes.*base_in_fortran_order": "cupy's results lie in C order, whatever their inputs' order",
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
    for module in (distgrad.autograd.gradcheck, distgrad.checkpoint, distgrad.nn, processes):
        assert module  # the package itself keeps from_numpy
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
    _open_functions(kind)
    if kind is strict.StrictArray:
        _open_strict(kind)
    else:
        _open_writing(kind)


_copies: dict[int, tuple[Any, Any]] = {}  # id of a host's array -> the array, and its copy on a GPU


def _from_numpy(array: Any) -> Any:
    """A tensor on the default device; on the strict one it shares the memory, as tests of views expect."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy takes a numpy array, got {type(array).__name__}")
    dtypes.category(array.dtype)
    there = backend.get(distgrad.get_default_device())
    if there.array_type is strict.StrictArray:
        return base.wrap(strict.StrictArray(array))
    copy, key = there.from_host(array), id(array)
    _copies[key] = (weakref.ref(array, lambda _: _copies.pop(key, None)), copy)
    return base.wrap(copy)


def _read(value: Any) -> Any:
    """The value with every array of a device replaced by what is in it: its very memory on the strict device."""
    if isinstance(value, (list, tuple)):
        return type(value)([_read(part) for part in value])
    if isinstance(value, dict):
        return {key: _read(part) for key, part in value.items()}
    if type(value) is strict.StrictArray:
        return value._memory
    return backend.of(value).to_host(value) if isinstance(value, backend.DeviceArray) else value


def _open_functions(kind: Any) -> None:
    """numpy's functions and operators, called by tests."""
    function_of_kind, ufunc_of_kind = kind.__array_function__, kind.__array_ufunc__

    def function(self: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if not _asked_by_a_test():
            return function_of_kind(self, func, types, args, kwargs)
        if func is np.shares_memory and kind is not strict.StrictArray:
            places = [_copies[id(a)][1] if id(a) in _copies else a for a in args]
            func = np.may_share_memory  # cupy's exact answer takes 0-d arrays for numbers
            return all(type(a) is kind for a in places) and bool(function_of_kind(self, func, types, places, kwargs))
        return func(*_read(args), **_read(kwargs))

    def ufunc(self: Any, called: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if _asked_by_a_test() and (ufunc_of_kind is None or any(isinstance(x, np.ndarray) for x in inputs)):
            return getattr(called, method)(*_read(inputs), **_read(kwargs))
        if ufunc_of_kind is None:
            raise TypeError(f"numpy.{called.__name__} was called with an array of the strict device")
        return ufunc_of_kind(self, called, method, *inputs, **kwargs)

    kind.__array_function__, kind.__array_ufunc__ = function, ufunc


def _open_strict(kind: Any) -> None:
    """Numbers of the strict device's arrays, read by tests."""
    refuse = strict_array.refuse

    def number(convert: Any) -> Any:
        return lambda self: convert(self._memory) if _asked_by_a_test() else self._no_number()

    kind.__float__, kind.__int__, kind.__index__ = number(float), number(int), number(operator.index)
    strict_array.refuse = lambda host: host if _asked_by_a_test(skip=STRICT) else refuse(host)


def _open_writing(kind: Any) -> None:
    """A test may write an array of the host into one of the device."""
    write = kind.__setitem__

    def written(self: Any, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and _asked_by_a_test():
            there = backend.of(self)
            value = there.from_host(value, there.device_of(self))
        write(self, key, value)

    kind.__setitem__ = written


def leave_out(items: list[pytest.Item], device: str) -> None:
    """Skip what does not make sense on another device, with the reason."""
    reasons = LEFT_OUT if device == "strict" else {**LEFT_OUT, **LEFT_OUT_ON_GPUS}
    for item in items:
        name = item.nodeid
        for part, reason in reasons.items():
            if re.search(part, name):
                item.add_marker(pytest.mark.skip(reason=f"not on this device: {reason}"))
                break
