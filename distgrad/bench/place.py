"""Where contestants compute, and how time is told there: on the host by its clock, on a GPU by events in its queue.

It knows devices and not what is measured. A rank takes the device of its number among the ranks of its machine.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .. import cuda
from .._tensor.creation import arange, tensor
from ..backend import Backend, get
from ..comm import Communicator, host, local_rank
from ..config import config
from .workloads import OURS, Library

__all__ = ["HERE", "HOST", "Clock", "DeviceClock", "Place", "take"]


class Clock:
    """Time on the host, where a call returns when its work is done.

    Attributes:
        events: whether marks are reached later than the calls that make them return.
    """

    events = False

    def mark(self) -> Any:
        """This moment."""
        return time.perf_counter()

    def seconds(self, begin: Any, end: Any) -> float:
        """From one mark to another."""
        return float(end - begin)

    def synchronize(self) -> None:
        """There is nothing to wait for."""


class DeviceClock(Clock):
    """Time on a device, by events that are recorded between what is queued: nothing waits for anything.

    Args:
        cuda: a library's module of this name, torch's or this package's: its events are recorded in the stream that
            its work is queued in.
    """

    events = True

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def mark(self) -> Any:
        """The moment at which the device has done what is queued until now."""
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """From one mark to another; the device must have passed both (`synchronize`)."""
        return float(begin.elapsed_time(end)) / 1000

    def synchronize(self) -> None:
        """Return when all that was queued, by whatever library of this process, has ended."""
        self._cuda.synchronize()


HOST = Clock()


@dataclass(frozen=True)
class Place:
    """A device on which this rank computes.

    Attributes:
        device: as tensors are told it: 'cpu', 'strict', 'cuda:1'.
        clock: of this package's work there.
        apart: every rank has a device of its own.
        where: what is to be said of it with every result.
    """

    device: str = "cpu"
    clock: Clock = HOST
    apart: bool = True
    where: dict[str, Any] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def peers(self) -> str:
        """The device of other libraries that are measured beside: a strict device is memory of the host."""
        return self.device if self.is_gpu else "cpu"

    @property
    def backend(self) -> Backend:
        return get(self.device)

    def library(self) -> Library:
        """This package, whose tensors are made there. Modules are made on the host, and moved there by `to`."""
        if self.device == "cpu":
            return OURS
        there = {"device": self.device}
        return Library(OURS.nn, OURS.functional, partial(arange, **there), partial(tensor, **there))

    def to(self, module: Any) -> Any:
        """The module, its parameters moved there."""
        return module if self.device == "cpu" else module.to(self.device)

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        """The call until the device has done its work."""
        if not self.clock.events:
            return call

        def until_done() -> None:
            call()
            self.clock.synchronize()

        return until_done

    def kept(self) -> int:
        """Bytes that this package has of the device; 0 of the host."""
        return cuda.memory_reserved() if self.is_gpu else 0

    def release(self) -> None:
        """Give memory that nothing holds any more back to the device, for who comes next."""
        if self.is_gpu:
            gc.collect()
            cuda.empty_cache()


HERE = Place()


def take(comm: Communicator, device: str) -> Place:
    """The place of this rank on a kind of device. Collective.

    Args:
        device: 'cpu', 'strict' or 'cuda': of several, the one of this rank's number among the ranks of its machine,
            modulo how many there are.

    Raises:
        RuntimeError: there is no such device here; the message says what is missing.
    """
    if device == "cpu":
        return HERE
    if device != "cuda":
        return Place(device, where={"device": "memory of the host that nothing takes for numpy's (strict)"})
    get("cuda")  # says why, if there is none
    cuda.set_device(local_rank(comm) % cuda.device_count())
    number = cuda.current_device()
    from ..backend.gpu.inventory import cards, versions

    card = cards()[number]
    places = [place.decode() for place in comm.allgather_bytes(f"{host()} {card.bus}".encode())]
    apart = len(set(places)) == comm.size
    shared = "" if comm.size == 1 else ", each rank on one of its own" if apart else ", shared by ranks"
    where = {"device": f"{card}, {versions()}{shared}",
             "tf32": f"{'on' if config.tf32 else 'off'}, for products of float32 of all who take part"}
    return Place(f"cuda:{number}", DeviceClock(cuda), apart, where)
