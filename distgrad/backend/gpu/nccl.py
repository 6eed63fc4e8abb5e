"""NCCL: collectives among devices of several ranks, on a stream of their own beside the computation.

Only making one waits on the host; all other calls queue and return. That all ranks queue the same calls in the
same order, and what becomes of a rank that does not come, is for whoever makes them to see to.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cupy

from ...errors import CommError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cupy warns where the library is missing; `missing` says it when it matters
    from cupy.cuda import nccl

__all__ = ["DeviceCollectives", "collective_id", "missing", "version"]

_OLDEST = 21000  # 2.10, the first one with means
_MEAN = 4  # ncclAvg; older releases of cupy have no name for it
# What is added, and of how many such numbers an element consists.
_NUMBERS = {"float32": ("NCCL_FLOAT32", 1), "float64": ("NCCL_FLOAT64", 1), "complex64": ("NCCL_FLOAT32", 2),
            "complex128": ("NCCL_FLOAT64", 2)}


def missing() -> str:
    """Why there is no NCCL here, and what to do; empty if there is."""
    if not getattr(nccl, "available", False):
        major = cupy.cuda.runtime.runtimeGetVersion() // 1000
        return f"cupy finds no NCCL: pip install nvidia-nccl-cu{major}"
    if version() < _OLDEST:
        return f"its NCCL is too old ({_dotted(version())}): 2.10 or newer is needed"
    return ""


def version() -> int:
    """The library's version as it counts itself, such as 23203; 0 without one."""
    return int(nccl.get_version()) if getattr(nccl, "available", False) else 0


def _dotted(number: int) -> str:
    unit = 10000 if number >= 10000 else 1000
    return f"{number // unit}.{number % unit // 100}"


def collective_id() -> bytes:
    """What rank 0 makes and all ranks are given, so that they find each other."""
    made = nccl.get_unique_id()
    return made if isinstance(made, bytes) else bytes(byte & 255 for byte in made)


def _as_cupy_takes_it(unique_id: bytes) -> Any:
    """Bytes from cupy 14 on, a tuple of C chars before."""
    if int(cupy.__version__.partition(".")[0]) >= 14:
        return unique_id
    return tuple(byte - 256 if byte > 127 else byte for byte in unique_id)


class DeviceCollectives:
    """This rank's end of collectives among all ranks, on the device that is current when it is made.

    Made on all ranks together: the constructor returns when all have called it. Arrays are contiguous, lie on that
    device, and stay alive until what was queued with them has ended.
    """

    def __init__(self, unique_id: bytes, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._device = int(cupy.cuda.runtime.getDevice())
        self._comm: Any = nccl.NcclCommunicator(size, _as_cupy_takes_it(unique_id), rank)
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._written = cupy.cuda.Event(block=False, disable_timing=True)  # by the computation, before a collective
        self._ended = cupy.cuda.Event(block=False, disable_timing=True)    # all collectives so far
        self._ended.record(self._stream)
        self._gone = ""

    @property
    def usable(self) -> bool:
        """Whether it was neither closed nor given up."""
        return not self._gone

    @property
    def done(self) -> bool:
        """Whether everything that was queued here has ended on this device."""
        return bool(self._ended.done)

    def all_reduce(self, array: Any, mean: bool = False) -> None:
        """Queue the sum over all ranks, in place, or their mean; every rank gets the same bits.

        The mean is taken as NCCL does, which scales before it adds: it cannot overflow where the mean does not.

        Raises:
            TypeError: numbers that are neither float32 nor float64, real or complex.
        """
        if array.dtype.name not in _NUMBERS:
            raise TypeError(f"sums over devices are taken in float32 or float64, not in {array.dtype}")
        name, numbers = _NUMBERS[array.dtype.name]
        where, op = _memory(array), _MEAN if mean else nccl.NCCL_SUM
        with self._queue() as stream:
            self._comm.allReduce(where, where, array.size * numbers, getattr(nccl, name), op, stream)

    def all_gather(self, array: Any, owned: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Queue that each rank's part of an array, which all have in the same size, goes to all others.

        Args:
            owned: for each rank the ranges of elements [begin, end) that it has to give.
        """
        where, item = _memory(array), array.dtype.itemsize
        parts = [(rank, begin * item, (end - begin) * item) for rank, ranges in enumerate(owned)
                 for begin, end in ranges]
        width = parts[0][2] if parts else 0
        even = parts == [(rank, rank * width, width) for rank in range(self.size)]
        with self._queue() as stream:
            if even:  # in place: what this rank sends lies where it belongs
                self._comm.allGather(where + self.rank * width, where, width, nccl.NCCL_UINT8, stream)
                return
            nccl.groupStart()
            try:
                for root, offset, count in parts:
                    self._comm.broadcast(where + offset, where + offset, count, nccl.NCCL_UINT8, root, stream)
            finally:
                nccl.groupEnd()

    def wait(self) -> None:
        """What is queued on the current stream from now on comes after all that was queued here; the host goes on."""
        with cupy.cuda.Device(self._device):
            cupy.cuda.get_current_stream().wait_event(self._ended)

    @contextmanager
    def _queue(self) -> Iterator[int]:
        """The stream of collectives, where it comes after what is queued on the current one."""
        if self._gone:
            raise CommError(f"NCCL's communicator of rank {self.rank} {self._gone}")
        with cupy.cuda.Device(self._device):
            self._written.record(cupy.cuda.get_current_stream())
            self._stream.wait_event(self._written)
            try:
                yield self._stream.ptr
            except Exception as error:
                raise self._failed(error) from error
            self._ended.record(self._stream)

    def check(self) -> None:
        """Look, without waiting, whether NCCL has met an error; then give up, which ends what other devices wait for.

        Raises:
            CommError: it has.
        """
        if self._gone:
            raise CommError(f"NCCL's communicator of rank {self.rank} {self._gone}")
        try:
            self._comm.check_async_error()
        except Exception as error:  # NcclError; a KeyError for statuses that cupy has no name for
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CommError:
        text = f"{type(error).__name__}: {error}"
        self.abort(f"was given up after {text}")
        return CommError(f"NCCL failed on rank {self.rank}, on cuda:{self._device}: {text}. NCCL_DEBUG=INFO in the "
                         "environment has it say more; the ranks' other devices cannot go on without this one")

    def abort(self, why: str = "was given up") -> None:
        """End at once, whatever is queued; collectives of other ranks that wait for this one end as well or fail."""
        if not self._gone:
            self._gone = why
            self._comm.abort()

    def close(self) -> None:
        """Give it back, after everything has ended on all ranks."""
        if not self._gone:
            self._gone = "has been closed"
            self._comm.destroy()


def _memory(array: Any) -> int:
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of shape {array.shape} and strides {array.strides} is not contiguous")
    return int(array.data.ptr)
