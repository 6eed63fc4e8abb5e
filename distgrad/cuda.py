"""CUDA devices, with torch.cuda's names. It can be asked anything on any machine: without a GPU, the answer is none.

Nothing here loads cupy unless it is installed and a device is asked for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from .backend import Device, cuda_device, get
from .errors import OutOfMemoryError

__all__ = ["OutOfMemoryError", "current_device", "device", "device_count", "empty_cache", "get_device_name",
           "is_available", "mem_get_info", "memory_allocated", "memory_reserved", "set_device", "synchronize"]


def is_available() -> bool:
    """Whether tensors can be put on a CUDA device here; why not, `tensor.cuda()` says."""
    return device_count() > 0


def device_count() -> int:
    """How many CUDA devices there are; 0 where there is no driver, no cupy, or no device."""
    try:
        return int(_backend().count())
    except RuntimeError:
        return 0


def current_device() -> int:
    """The number of the device on which 'cuda' is.

    Raises:
        RuntimeError: there is none; the message says what is missing.
    """
    return int(_backend().current())


def set_device(device: Any) -> None:
    """Make 'cuda' mean this device, in this thread.

    Raises:
        RuntimeError: it is not there.
    """
    _backend().select(cuda_device(device))


def device(device: Any) -> AbstractContextManager[Any]:
    """A context in which 'cuda' is this device."""
    return _backend().using(cuda_device(device))


def synchronize(device: Any = None) -> None:
    """Return when all that was queued on the device has ended.

    Raises:
        RuntimeError: there is no such device.
    """
    backend = _backend()
    backend.synchronize(backend.place(cuda_device(device)))


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors of this process hold on the device; 0 where there is none."""
    return _used(device)[0]


def memory_reserved(device: Any = None) -> int:
    """Bytes that this process has of the device, those that wait for the next tensors included; 0 without a device."""
    return _used(device)[1]


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the device, whoever uses them."""
    backend = _backend()
    found: tuple[int, int] = backend.free(backend.place(cuda_device(device)))
    return found


def empty_cache() -> None:
    """Give memory that no tensor holds back to the device, for other processes; nothing happens without a device."""
    if is_available():
        _backend().empty_cache()


def get_device_name(device: Any = None) -> str:
    """The name under which a device is sold."""
    backend = _backend()
    return str(backend.title(backend.place(cuda_device(device))))


def _backend() -> Any:
    return get(Device("cuda"))


def _used(device: Any) -> tuple[int, int]:
    if not is_available():
        return 0, 0
    backend = _backend()
    found: tuple[int, int] = backend.used(backend.place(cuda_device(device)))
    return found
