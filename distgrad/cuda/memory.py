"""How full devices are. It can be asked on any machine: without a device, nothing is used."""

from __future__ import annotations

from typing import Any

from ._backend import backend, placed
from .devices import is_available

__all__ = ["empty_cache", "mem_get_info", "memory_allocated", "memory_reserved", "memory_summary"]

_MIB = 1 << 20


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors of this process hold on the device; 0 where there is none."""
    return _used(device)[0]


def memory_reserved(device: Any = None) -> int:
    """Bytes that this process has of the device, those that wait for the next tensors included; 0 without a device."""
    return _used(device)[1]


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the device, whoever uses them."""
    found: tuple[int, int] = backend().free(placed(device))
    return found


def memory_summary(device: Any = None) -> str:
    """One line about a device: what this process's tensors hold, what is kept for the next ones, what is free."""
    place = placed(device)
    used, reserved = _used(place)
    free, total = mem_get_info(place)
    return (f"{place}: {used / _MIB:,.0f} MiB in tensors, {(reserved - used) / _MIB:,.0f} MiB kept for the next ones, "
            f"{free / _MIB:,.0f} of {total / _MIB:,.0f} MiB free")


def empty_cache() -> None:
    """Give memory that no tensor holds back to the device, for other processes; nothing happens without a device."""
    if is_available():
        backend().empty_cache()


def _used(device: Any) -> tuple[int, int]:
    if not is_available():
        return 0, 0
    found: tuple[int, int] = backend().used(placed(device))
    return found
