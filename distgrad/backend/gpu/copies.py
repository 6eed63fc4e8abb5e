"""Copies between the host and devices: on which stream they are queued, and who waits for what.

What a copy reads and writes stays until it has ended, also where nobody waits for it: see `flight`.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ..base import Copy, Device
from .flight import in_flight

__all__ = ["DeviceCopy", "fill", "from_host", "is_pinned", "peer", "start_to_host", "to_host", "turned"]


class DeviceCopy(Copy):
    """A copy on a stream of its own."""

    def __init__(self, ended: Any) -> None:
        self._ended = ended

    @property
    def done(self) -> bool:
        return bool(self._ended.done)

    def wait(self) -> None:
        self._ended.synchronize()


def is_pinned(host: np.ndarray) -> bool:
    """Whether CUDA knows this memory as pinned."""
    where = int(host.__array_interface__["data"][0])
    return bool(host.nbytes and cupy.cuda.pinned_memory.is_memory_pinned(where))


def from_host(host: np.ndarray, non_blocking: bool) -> Any:
    """A new array of the current device.

    cupy copies memory that is not pinned to a pinned block first, and holds on to memory that is.
    """
    made = cupy.array(host, order="F" if turned(host) else "C")
    if not non_blocking and is_pinned(host):
        cupy.cuda.get_current_stream().synchronize()
    return made


def turned(array: Any) -> bool:
    """Whether the first index runs fastest."""
    return bool(array.flags.f_contiguous and not array.flags.c_contiguous)


def fill(array: Any, host: np.ndarray, non_blocking: bool) -> None:
    """Write an array that is whole in memory; on its device."""
    array.set(host)  # returns when memory that is not pinned may change again
    if is_pinned(host):
        ended = in_flight.keep(cupy.cuda.get_current_stream(), host, array)
        if not non_blocking:
            ended.synchronize()


def to_host(array: Any, out: np.ndarray) -> None:
    """Queue a copy into pinned memory on the current stream, that of the array's device."""
    array.get(out=out, blocking=False)
    in_flight.keep(cupy.cuda.get_current_stream(), array, out)


def start_to_host(array: Any, out: np.ndarray, stream: Any) -> DeviceCopy:
    """Queue a copy on `stream`, after what the current one has to do; it is waited for if `out` is not pinned."""
    written = cupy.cuda.Event(block=False, disable_timing=True)
    written.record(cupy.cuda.get_current_stream())
    stream.wait_event(written)
    array.get(stream=stream, out=out, blocking=False)
    return DeviceCopy(in_flight.keep(stream, array, out))


def peer(array: Any, device: Device) -> Any:
    """The content on another device, from device to device; the host does not wait.

    The copy is queued where it arrives, after what the source's stream had to do, and the source's stream goes on
    only after it: then whatever frees or overwrites the source comes later.
    """
    with array.device:
        source = cupy.cuda.get_current_stream()
        # In C order before the event: cupy would bring it there after, and copy without waiting for that.
        flipped = turned(array)
        whole = array.T if flipped else array if array.flags.c_contiguous else cupy.ascontiguousarray(array)
        written = cupy.cuda.Event(block=False, disable_timing=True)
        written.record(source)
    with cupy.cuda.Device(device.index):
        target = cupy.cuda.get_current_stream()
        target.wait_event(written)
        made = whole.copy()
        ended = in_flight.keep(target, whole)
    with array.device:
        source.wait_event(ended)
    return made.T if flipped else made
