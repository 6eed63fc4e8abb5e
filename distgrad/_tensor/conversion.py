"""Conversions: out of tensors, to other dtypes and devices, and writing whole tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Device, DeviceArray, cuda_device, device_of, get, is_pinned, of
from ..backend.dtypes import NAMES, dtype_of
from ..backend.random import Generator, default_generator
from ..graph.base import TensorBase, wrap
from ..ops import shape
from ..ops.cast import cast
from ..ops.inplace import Overwrite, in_place
from ..ops.transfer import pin_memory, transfer

__all__ = ["Conversion"]

bool_ = bool  # the class has a method of that name


def _copied(old: Any, source: Any, non_blocking: bool) -> Any:
    array = source.array if isinstance(source, TensorBase) else source
    if isinstance(array, DeviceArray) and (place := device_of(old.array)) != device_of(array):
        source = transfer(source, place, non_blocking and place.type != "cpu")  # the host reads it at once
    return Overwrite.apply(old, shape.expand(source, old.shape))


class Conversion:
    """Methods that leave the tensor world, change dtype or device, or fill memory."""

    __slots__ = ()

    # -- out of tensors

    def item(self) -> Any:
        """The only element as a Python number; RuntimeError when there are several."""
        if self.array.size != 1:
            raise RuntimeError(f"item: a tensor of shape {self.shape} has {self.array.size} elements, not one")
        return self.array.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return of(self.array).to_host(self.array).tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The memory as a numpy array, shared.

        Args:
            force: detach and copy to the host first where needed.

        Raises:
            RuntimeError: the tensor requires grad (a write would not be seen).
            TypeError: it is not on the host.
        """
        if force:
            return of(self.array).to_host(self.array)
        if self.requires_grad:
            raise RuntimeError("numpy(): this tensor requires grad; use detach().numpy()")
        if not isinstance(self.array, np.ndarray):
            raise TypeError(f"numpy(): the tensor is on {self.device}; use cpu() first")
        return self.array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __bool__(self) -> bool:
        if self.array.size != 1:
            raise RuntimeError(f"a tensor of shape {self.shape} has no truth value; use any() or all()")
        return bool(self.array.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.array.dtype.kind not in "iu" or self.array.size != 1:
            raise TypeError("only an integer tensor of one element can be an index")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.array.ndim == 0 and spec else object.__format__(self, spec)

    # -- other dtypes and devices

    def to(self, *args: Any, dtype: Any = None, device: Any = None, copy: bool = False,
           non_blocking: bool = False) -> Any:
        """In another dtype or on another device, given by position or name, or as another tensor has it.

        Args:
            copy: a new tensor also where this one is there already.
            non_blocking: do not wait for the copy. Into a device from pinned memory of the host (see `pin_memory`), it
                runs beside what this thread does next; do not write to that memory meanwhile. To the host, the
                result is pinned, and right after `distgrad.cuda.synchronize()`.
        """
        flags = []
        for arg in args:
            if isinstance(arg, TensorBase):
                dtype, device = arg.dtype, device_of(arg.array)
            elif isinstance(arg, Device) or (isinstance(arg, str) and arg not in NAMES):
                device = arg
            elif isinstance(arg, bool):
                flags.append(arg)
            elif arg is not None:
                dtype = arg
        non_blocking, copy = (*flags, *(non_blocking, copy)[len(flags):])
        result = self
        target = dtype_of(dtype)
        if device is not None and get(device).place(Device(device)) != device_of(self.array):
            result = transfer(result, device, non_blocking and (target in (None, result.dtype) or
                                                                Device(device).type != "cpu"))
        if target is not None and target != result.dtype:
            result = cast(result, target)
        return shape.clone(result) if copy and result is self else result

    def type_as(self, other: TensorBase) -> Any:
        return self.to(other.dtype)

    def cpu(self) -> Any:
        return self.to("cpu")

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Any:
        """On a GPU: the current one, or the one that `device` (a number or 'cuda:1') says; see `to`."""
        return self.to(cuda_device(device), non_blocking=non_blocking)

    def pin_memory(self, device: Any = None) -> Any:
        """In pinned memory of the host, from which copies to a GPU need not be waited for; itself if it is there.

        Raises:
            RuntimeError: it is not on the host, or no CUDA device can be used; says why.
        """
        if not isinstance(self.array, np.ndarray):
            raise RuntimeError(f"pin_memory(): only memory of the host is pinned, this tensor is on {self.device}")
        place = cuda_device(device)
        return self if get(place).is_pinned(self.array) else pin_memory(self, place)

    def is_pinned(self, device: Any = None) -> bool_:
        """Whether it lies in pinned memory of the host."""
        return isinstance(self.array, np.ndarray) and is_pinned(self.array)

    def float(self) -> Any:
        return self.to("float32")

    def double(self) -> Any:
        return self.to("float64")

    def half(self) -> Any:
        return self.to("float16")

    def long(self) -> Any:
        return self.to("int64")

    def int(self) -> Any:
        return self.to("int32")

    def bool(self) -> Any:
        return self.to("bool")

    # -- writing whole tensors

    def copy_(self, source: Any, non_blocking: bool_ = False) -> Any:
        """Take the values of `source`, broadcast and cast, from whatever device.

        Args:
            non_blocking: onto a GPU from pinned memory, do not wait for the copy.
        """
        return in_place("copy_", self, _copied, source, non_blocking)

    def fill_(self, value: Any) -> Any:
        """Set every element to a number or a 0-d tensor."""
        return in_place("fill_", self, Overwrite.apply, value)

    def zero_(self) -> Any:
        """Set every element to zero."""
        return self.fill_(0)

    def _drawn(self, name: str, draw: Any, generator: Generator | None) -> Any:
        """Fill with `draw(stream)`, a host array of this shape."""
        stream = (generator or default_generator()).numpy
        backend = of(self.array)
        return in_place(name, self, lambda old: wrap(backend.from_host(
            np.asarray(draw(stream)).astype(old.dtype, copy=False), device_of(old.array))))

    def normal_(self, mean: Any = 0.0, std: Any = 1.0, *, generator: Generator | None = None) -> Any:
        """Fill with normally distributed numbers."""
        return self._drawn("normal_", lambda stream: stream.normal(mean, std, self.shape), generator)

    def uniform_(self, low: Any = 0.0, high: Any = 1.0, *, generator: Generator | None = None) -> Any:
        """Fill with numbers drawn evenly from [low, high)."""
        return self._drawn("uniform_", lambda stream: stream.uniform(low, high, self.shape), generator)

    def bernoulli_(self, p: Any = 0.5, *, generator: Generator | None = None) -> Any:
        """Fill with ones (with probability p) and zeros."""
        return self._drawn("bernoulli_", lambda stream: stream.random(self.shape) < p, generator)

    def random_(self, low: Any = 0, high: Any = None, *, generator: Generator | None = None) -> Any:
        """Fill with integers from [low, high); random_(n) draws from [0, n)."""
        low, high = (0, low) if high is None else (low, high)
        return self._drawn("random_", lambda stream: stream.integers(low, high, self.shape), generator)
