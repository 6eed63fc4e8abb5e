"""DLPack: tensors to and from other libraries without a copy. The array libraries do the work."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Device, get, of
from ..graph.base import TensorBase, wrap

__all__ = ["Exchange", "from_dlpack", "to_dlpack"]

_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED = 1, 2, 3, 13  # DLPack's numbers for kinds of device


class Exchange:
    """A tensor as a producer in DLPack's protocol."""

    __slots__ = ()

    def __dlpack__(self, **options: Any) -> Any:
        """A capsule that shares the memory; options (stream, max_version, dl_device, copy) go to the array.

        Raises:
            BufferError: the tensor requires grad (a write by the consumer would not be seen).
        """
        if self.requires_grad:
            raise BufferError(f"a tensor of shape {self.shape} that requires grad cannot be exported: "
                              "use detach() first")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(kind of device, number of the device)."""
        return self.array.__dlpack_device__()


class _Capsule:
    """A bare capsule as a producer; without a device it can only be taken to lie on the host."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Any:
    """A tensor over the memory of another library's array.

    Args:
        ext_tensor: has `__dlpack__`, or is the capsule that `to_dlpack` gives (host memory, used once).
        device: where the result shall lie; None for where the memory is.
        copy: True for memory of its own, False to refuse a copy, None to copy only where needed.

    Raises:
        RuntimeError: not an array in this sense.
        BufferError: the producer refuses, as for a tensor that requires grad.
        ValueError: copy is False, but `device` needs one.
    """
    if type(ext_tensor).__name__ == "PyCapsule":
        ext_tensor = _Capsule(ext_tensor)
    if not hasattr(ext_tensor, "__dlpack__") or not hasattr(ext_tensor, "__dlpack_device__"):
        raise RuntimeError(f"from_dlpack: {type(ext_tensor).__name__} has no __dlpack__; arrays of other libraries, "
                           "and capsules, do")
    if isinstance(ext_tensor, np.ndarray):
        array: Any = ext_tensor.view()  # a read-only array stays one
    else:
        kind, number = (int(n) for n in ext_tensor.__dlpack_device__())
        if kind not in (_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED):
            raise RuntimeError(f"from_dlpack: the memory lies on a device of kind {kind} in DLPack's numbering, which "
                               "no backend here reads")
        here = "cpu" if kind in (_CPU, _CUDA_HOST) else f"cuda:{number}"
        array = get(here).xp.from_dlpack(ext_tensor)
    made = wrap(array)
    if device is not None and get(Device(device)) is not of(array):
        if copy is False:
            raise ValueError(f"from_dlpack: memory on {made.device} cannot be used on {device} without a copy")
        return made.to(device)
    return made.clone() if copy else made


def to_dlpack(tensor: TensorBase) -> Any:
    """A DLPack capsule over the tensor's memory, for a consumer that asks for one."""
    return tensor.__dlpack__()  # type: ignore[attr-defined]
