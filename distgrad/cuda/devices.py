"""Which devices there are, which one is meant, and what they are."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from .._tensor.creation import manual_seed as seed_all
from ._backend import backend, placed

__all__ = ["DeviceProperties", "current_device", "device", "device_count", "get_device_capability", "get_device_name",
           "get_device_properties", "is_available", "manual_seed", "manual_seed_all", "set_device", "synchronize"]


class DeviceProperties(NamedTuple):
    """What a device is; memory in bytes, `major` and `minor` are its compute capability."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int


def is_available() -> bool:
    """Whether tensors can be put on a CUDA device here; why not, `tensor.cuda()` says."""
    return device_count() > 0


def device_count() -> int:
    """How many CUDA devices there are; 0 where there is no driver, no cupy, or no device."""
    try:
        return int(backend().count())
    except RuntimeError:
        return 0


def current_device() -> int:
    """The number of the device on which 'cuda' is.

    Raises:
        RuntimeError: there is none; the message says what is missing.
    """
    return int(backend().current())


def set_device(device: Any) -> None:
    """Make 'cuda' mean this device, in this thread; said in the main thread, also in threads that begin later.

    Raises:
        RuntimeError: it is not there.
    """
    backend().select(placed(device))


def device(device: Any) -> AbstractContextManager[Any]:
    """A context in which 'cuda' is this device."""
    context: AbstractContextManager[Any] = backend().using(placed(device))
    return context


def synchronize(device: Any = None) -> None:
    """Return when all that was queued on the device has ended.

    Raises:
        RuntimeError: there is no such device.
    """
    backend().synchronize(placed(device))


def get_device_properties(device: Any = None) -> DeviceProperties:
    """Name, compute capability, memory and multiprocessors of a device."""
    about = backend().properties(placed(device))
    name = about["name"]
    return DeviceProperties(name.decode() if isinstance(name, bytes) else str(name), int(about["major"]),
                            int(about["minor"]), int(about["totalGlobalMem"]), int(about["multiProcessorCount"]))


def get_device_name(device: Any = None) -> str:
    """The name under which a device is sold."""
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of a device, such as (9, 0)."""
    found = get_device_properties(device)
    return found.major, found.minor


def manual_seed(seed: int) -> None:
    """Seed the context's random stream, where there is a device; without one, nothing happens.

    Devices have no streams of their own: what is drawn on them follows from the same stream as what is drawn on the
    host, so this is `distgrad.manual_seed`.
    """
    if is_available():
        seed_all(seed)


def manual_seed_all(seed: int) -> None:
    """As `manual_seed`: one stream serves all devices."""
    manual_seed(seed)
