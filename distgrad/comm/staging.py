"""Device memory in collectives: it travels by way of the host, unless MPI was declared to take it as it is.

A collective that is given an array of a device copies it to (pinned) host memory, runs there, and copies the
result back: an MPI library that does not know devices never gets one's memory. DISTGRAD_CUDA_MPI=1 says that
MPI knows CUDA; then what only moves data hands it device memory, once the device has written it (where the library
itself says that it cannot take any, that is an error). Sums over ranks are taken in rank order on the host in any
case, so their bits are the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..backend import Backend, DeviceArray, of
from ..config import config

__all__ = ["on_host", "takes_device_memory"]

F = TypeVar("F", bound=Callable[..., Any])


def on_host(array: Any) -> bool:
    """Whether a raw array is memory of the host (or no array at all, which others refuse)."""
    return isinstance(array, np.ndarray) or not isinstance(array, DeviceArray)


def takes_device_memory(*written: str, read: tuple[str, ...] = (), moves: bool = False) -> Callable[[F], F]:
    """Decorate a collective, so that its buffers may be arrays of a device.

    Args:
        written: the parameters that are written to (and perhaps read before).
        read: those that are only read.
        moves: it computes nothing, so that MPI can do it in device memory.
    """

    def decorate(collective: F) -> F:
        signature = inspect.signature(collective)
        first = list(signature.parameters).index((*read, *written)[0])

        @functools.wraps(collective)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if len(args) > first and isinstance(args[first], np.ndarray):
                return collective(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments
            devices = {name: given[name] for name in (*read, *written) if not on_host(given[name])}
            if not devices or (moves and _ready(args[0], devices)):
                return collective(*args, **kwargs)
            hosts: dict[int, Any] = {}  # a buffer that is sent and received stays one buffer
            for name, array in devices.items():
                given[name] = hosts.setdefault(id(array), None)
                if given[name] is None:
                    given[name] = hosts[id(array)] = _to_host(of(array), array)
            result = collective(*bound.args, **bound.kwargs)
            for name in written:
                if name in devices:
                    of(devices[name]).fill_from_host(devices[name], hosts[id(devices[name])], non_blocking=True)
            return result

        return wrapper  # type: ignore[return-value]

    return decorate


def _to_host(backend: Backend, array: Any) -> Any:
    if not array.flags.c_contiguous:
        raise ValueError(f"a buffer of shape {array.shape} and strides {array.strides} on {backend.device_of(array)} "
                         "is not contiguous: pass a contiguous copy of it")
    return backend.to_host(array, backend.host_memory(array.shape, array.dtype))


def _ready(comm: Any, devices: dict[str, Any]) -> bool:
    """Whether MPI may be given these arrays; what the device still has to write is written then.

    MPI looks at no stream: it must find the arrays written, and nobody still reading those that it writes. As the
    whole device is waited for, NCCL has ended there too: the two never work on one device at the same time.
    """
    if not config.cuda_mpi or any(of(array).name != "cuda" for array in devices.values()) or not comm.takes_cuda:
        return False
    for array in devices.values():
        of(array).synchronize(of(array).device_of(array))
    return True
