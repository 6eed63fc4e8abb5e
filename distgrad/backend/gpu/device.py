"""The CUDA backend: cupy's namespace, memory of several devices, copies that run beside the computation.

Work is queued on cupy's current stream. Copies to the host that were begun with `start_to_host` run on a stream of
their own, after what was queued before; all other copies return when the host's memory may be used again, unless they
are told not to wait.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import cupy
import numpy as np

from ...errors import OutOfMemoryError
from ..base import Backend, Copy, Device
from ..collectives import Collectives
from . import copies, current, driver, kernels, memory, nccl
from .beside import Beside
from .namespace import Namespace
from .random import uniform

__all__ = ["GPU"]


class GPU(Backend):
    """Every CUDA device of this process; which one, an array says itself."""

    name = "cuda"
    array_type = cupy.ndarray
    speaks = True

    def __init__(self) -> None:
        super().__init__()
        self.several = self.count() > 1
        self.xp: Any = Namespace(cupy, self.several)
        self._special: Any = None
        self._copying: dict[int, Any] = {}  # device -> the stream of copies to the host
        cupy.cuda.set_allocator(memory.allocate)

    @property
    def device(self) -> Device:  # type: ignore[override]
        """The current one."""
        return Device("cuda", self.current())

    @property
    def special(self) -> Any:
        if self._special is None:
            import cupyx.scipy.special

            self._special = Namespace(cupyx.scipy.special, self.several)
        return self._special

    def override(self, name: str) -> Callable[..., Any] | None:
        found = kernels.find(name)
        return Beside(found) if self.several and found is not None else found

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        bound = super().bind(function)
        return Beside(bound) if self.several else bound

    def beside(self, array: Any) -> AbstractContextManager[Any] | None:
        if self.several and array.data.device_id != current.current():
            context: AbstractContextManager[Any] = cupy.cuda.Device(array.data.device_id)
            return context
        return None

    # -- devices

    def current(self) -> int:
        """The number of the device on which new arrays lie."""
        return current.current()

    def count(self) -> int:
        """How many devices there are."""
        return driver.count(cupy)

    def device_of(self, array: Any) -> Device:
        return Device("cuda", array.device.id)

    def place(self, device: Device) -> Device:
        if device.index is None:
            return self.device
        found = self.count()
        if device.index >= found:
            raise RuntimeError(f"{device} is not here: there {'is one CUDA device, cuda:0' if found == 1 else ''}"
                               f"{f'are {found} CUDA devices, cuda:0 to cuda:{found - 1}' if found > 1 else ''}")
        return device

    def _number(self, device: Device) -> int:
        number = self.place(device).index
        return 0 if number is None else number

    def using(self, device: Device) -> AbstractContextManager[Any]:
        return current.using(self._number(device))

    def synchronize(self, device: Device | None = None) -> None:
        with self.using(device or self.device):
            cupy.cuda.runtime.deviceSynchronize()
        copies.in_flight.let_go()

    # -- memory and copies

    def from_host(self, array: Any, device: Device | None = None, non_blocking: bool = False) -> Any:
        with self.using(device or self.device):
            return copies.from_host(np.asarray(array), non_blocking)

    def to_host(self, array: Any, out: Any = None, non_blocking: bool = False) -> np.ndarray:
        with array.device:
            if out is None and non_blocking:
                out = self._pinned_like(array)
                copies.to_host(array, out)
            elif out is None:
                out = array.get(order="A")
            elif array.shape == out.shape and out.flags.c_contiguous:
                array.get(out=out)
            else:
                out[...] = array.get()
        return out

    def fill_from_host(self, array: Any, host: np.ndarray, non_blocking: bool = False) -> None:
        with array.device:
            if array.flags.c_contiguous and host.flags.c_contiguous and array.dtype == host.dtype:
                copies.fill(array, host, non_blocking)
            else:
                array[...] = copies.from_host(host, non_blocking)

    def between(self, array: Any, device: Device) -> Any:
        return copies.peer(array, device)

    def host_memory(self, shape: Any, dtype: Any) -> np.ndarray:
        try:
            return memory.pinned(shape, dtype)
        except OutOfMemoryError:  # copies are slower, and right
            return np.empty(shape, dtype)

    def _pinned_like(self, array: Any) -> np.ndarray:
        if copies.turned(array):
            return self.host_memory(array.shape[::-1], array.dtype).T
        return self.host_memory(array.shape, array.dtype)

    def is_pinned(self, host: np.ndarray) -> bool:
        return copies.is_pinned(host)

    def pinned(self, host: np.ndarray) -> np.ndarray:
        out = memory.pinned(host.shape, host.dtype)
        out[...] = host
        return out

    def pin(self, host: np.ndarray) -> None:
        if not host.nbytes:
            return
        runtime, where = cupy.cuda.runtime, int(host.__array_interface__["data"][0])
        with suppress(runtime.CUDARuntimeError):  # memory that cannot be pinned is copied more slowly
            runtime.hostRegister(where, host.nbytes, 0)
            weakref.finalize(host, _unpin, where).atexit = False

    def start_to_host(self, array: Any, out: np.ndarray) -> Copy:
        with array.device as device:
            stream = self._copying.get(device.id)
            if stream is None:
                stream = self._copying[device.id] = cupy.cuda.Stream(non_blocking=True)
            return copies.start_to_host(array, out, stream)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def uniform(self, stream: Any, shape: Any, device: Device | None = None) -> Any:
        with self.using(device or self.device):
            return uniform(stream, shape)

    # -- collectives among devices

    def identity(self, device: Device) -> str:
        return str(cupy.cuda.runtime.deviceGetPCIBusId(device.index))

    def why_no_collectives(self) -> str:
        return nccl.missing()

    def collectives_version(self) -> int:
        return nccl.version()

    def collective_id(self) -> bytes:
        return nccl.collective_id()

    def collectives(self, unique_id: bytes, rank: int, size: int) -> Collectives:
        return nccl.DeviceCollectives(unique_id, rank, size)

    # -- what distgrad.cuda tells

    def used(self, device: Device) -> tuple[int, int]:
        """Bytes that arrays hold, and bytes that the pool has of the device in all."""
        with self.using(device):
            return memory.pool.used_bytes(), memory.pool.total_bytes()

    def free(self, device: Device) -> tuple[int, int]:
        """Free bytes of the device, and all of them."""
        with self.using(device):
            free, total = cupy.cuda.runtime.memGetInfo()
            return int(free), int(total)

    def empty_cache(self) -> None:
        """Give unused memory of the pools back to the devices, and to the host."""
        copies.in_flight.let_go()
        memory.pool.free_all_blocks()
        memory.pinned_pool.free_all_blocks()

    def select(self, device: Device) -> None:
        """Make a device the current one of this thread."""
        current.select(self._number(device))

    def properties(self, device: Device) -> dict[str, Any]:
        """What CUDA says about a device."""
        found: dict[str, Any] = cupy.cuda.runtime.getDeviceProperties(self._number(device))
        return found

    def new_stream(self, device: Device, priority: int = 0) -> Any:
        """A stream beside all others of the device."""
        with self.using(device):
            return cupy.cuda.Stream(non_blocking=True, **({"priority": priority} if priority else {}))

    def stream_of(self, device: Device) -> Any:
        """The stream on which this thread's work on the device is queued."""
        return cupy.cuda.get_current_stream(self._number(device))

    def default_stream(self) -> Any:
        """The one that is current where nothing was said."""
        return cupy.cuda.Stream.null

    def new_event(self, timed: bool, blocking: bool) -> Any:
        """An event of the current device."""
        return cupy.cuda.Event(block=blocking, disable_timing=not timed)

    def elapsed_time(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have been reached."""
        return float(cupy.cuda.get_elapsed_time(start, end))


def _unpin(where: int) -> None:
    with suppress(cupy.cuda.runtime.CUDARuntimeError):
        cupy.cuda.runtime.hostUnregister(where)
