"""An NCCL for the stand-in cupy: it joins simulated ranks, and holds them to the rules of the real one.

A collective is queued at once and done when somebody waits for it: its result is written then and not before, from
what was there when it was queued, so that who forgets to wait computes with what was there. It refuses calls that
differ between ranks, memory that is no live array of the communicator's device, memory that is written to on the way,
and calls that do not come after what the computation has queued. Sums are not taken in the order of ranks.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from distgrad import backend
from distgrad.comm import devices as joining
from distgrad.comm.deadline import Deadline
from tests.gpu import queues, standin

__all__ = ["Library", "Soon", "installed"]

_PATIENCE = 20.0  # seconds for the others to come
_KINDS = {1: np.dtype("uint8"), 7: np.dtype("float32"), 8: np.dtype("float64")}
_SUM, _AVG = 0, 4


class NcclError(RuntimeError):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"NCCL_ERROR {status}: {text}")
        self.status = status


class _Meeting:
    """One collective: what the ranks bring, and what comes of it when all are there."""

    def __init__(self, size: int) -> None:
        self.calls: list[tuple[Any, ...] | None] = [None] * size
        self.inputs: list[Any] = [None] * size
        self.outputs: list[Any] = [None] * size
        self.there = threading.Event()
        self.wrong = ""

    def come(self, rank: int, call: tuple[Any, ...], brings: Any, work: Callable[[list[Any]], list[Any]]) -> None:
        self.calls[rank], self.inputs[rank] = call, brings
        known = [one for one in self.calls if one is not None]
        if any(one != known[0] for one in known):
            self.wrong = f"the ranks called {self.calls}"
            self.there.set()
        elif len(known) == len(self.calls):
            self.outputs = work(self.inputs)
            self.there.set()


class _Queued:
    """This rank's part of a collective, on its stream."""

    def __init__(self, world: _World, meeting: _Meeting, rank: int, memory: Any) -> None:
        self.world, self.meeting, self.rank, self.memory = world, meeting, rank, memory
        self.before = memory.copy()
        self.written = False

    @property
    def ended(self) -> bool:
        if self.meeting.there.is_set() or self.world.hopeless(self.meeting):
            self.finish()
        return self.written

    def finish(self) -> None:
        for _ in range(int(_PATIENCE * 100)):
            if self.written or self.world.hopeless(self.meeting) or self.meeting.there.wait(0.01):
                break
        else:
            raise AssertionError(f"rank {self.rank} waits for its device, and {self.meeting.calls} has not all ranks")
        if self.written:
            return
        self.written = True
        if self.world.hopeless(self.meeting):
            return
        assert not self.meeting.wrong, self.meeting.wrong
        assert self.memory.tobytes() == self.before.tobytes(), "memory was written to while it was on its way"
        self.memory[...] = self.meeting.outputs[self.rank]


class _Event(queues.Event):
    """A place in a stream, behind collectives that may not have ended."""

    collectives: list[_Queued] | None = None
    of_computation = False

    def record(self, stream: Any = None) -> None:
        super().record(stream)
        assert stream.device_id in (-1, standin._thread.device), "an event is recorded on its own device"
        stream.collectives = [one for one in stream.collectives if not one.written]
        self.collectives, self.of_computation = list(stream.collectives), stream.device_id == -1

    @property
    def done(self) -> bool:
        return all(one.ended for one in self.collectives or ()) and super().done

    def synchronize(self) -> None:
        for one in self.collectives or ():
            one.finish()
        super().synchronize()


class _Stream(queues.Stream):
    """The computation's, on which everything is done at once, or another one, which may carry collectives."""

    known: dict[int, _Stream] = {}

    def __init__(self, null: bool = False, **options: Any) -> None:
        super().__init__(null, **options)
        self.collectives: list[_Queued] = []
        self.behind = False  # what the computation has queued, after the last collective
        self.known[self.ptr] = self

    def wait_event(self, event: Any) -> None:
        assert event.collectives is not None, "an event is waited for that was never recorded"
        if self.device_id != -1:
            self.behind = self.behind or event.of_computation
        for one in event.collectives if self.device_id == -1 else ():
            one.finish()  # the computation goes on at once, and so has to have them now
        if not event.collectives:
            self.put(lambda: queues.Event.synchronize(event))  # no call of the package's, which may be counted

    def synchronize(self) -> None:
        for one in self.collectives:
            one.finish()
        super().synchronize()


class Soon(Deadline):
    """Limits for tests of ranks that never come."""

    def __init__(self) -> None:
        super().__init__()
        self.soft, self.hard = 0.2, 0.6


class _World:
    """The ranks that join with one id."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.joined: dict[int, int] = {}  # rank -> device
        self.meetings: dict[int, _Meeting] = {}
        self.destroyed: set[int] = set()

    def hopeless(self, meeting: _Meeting) -> bool:
        """Whether a rank is gone that has not come to it."""
        return any(meeting.calls[rank] is None for rank in self.destroyed)

    @property
    def aborted(self) -> bool:
        return any(map(self.hopeless, tuple(self.meetings.values())))


class Library:
    """The module `cupy.cuda.nccl`, and what a test wants to see or to break.

    Attributes:
        number: its version.
        fails: ranks whose attempt to join raises, with what.
        stuck: ranks whose attempt never gets as far as the others'.
        refuses: ranks whose calls raise, with what.
        broken: ranks on which an error has come up that a look finds, with what.
        log: for each rank its calls (name, count, datatype, op or root).
    """

    available = True
    NCCL_SUM, NCCL_UINT8, NCCL_FLOAT32, NCCL_FLOAT64 = _SUM, 1, 7, 8

    def __init__(self) -> None:
        self.number = 23203
        self.fails: dict[int, str] = {}
        self.stuck: set[int] = set()
        self.refuses: dict[int, str] = {}
        self.broken: dict[int, str] = {}
        self.log: dict[int, list[tuple[Any, ...]]] = {}
        self.worlds: dict[bytes, _World] = {}
        self.ids = itertools.count()
        self.over = threading.Event()
        self.changed = threading.Condition()
        self.thread = threading.local()
        self.NcclError = NcclError
        self.NcclCommunicator = lambda size, unique_id, rank: _Communicator(self, size, unique_id, rank)

    def get_version(self) -> int:
        return self.number

    def get_unique_id(self) -> bytes:
        return next(self.ids).to_bytes(128, "little")

    def groupStart(self) -> None:
        assert getattr(self.thread, "group", None) is None
        self.thread.group = []

    def groupEnd(self) -> None:
        calls, self.thread.group = self.thread.group, None
        for call, _ in calls:
            call()
        for _, stream in calls:
            _Stream.known[stream].behind = False

    @property
    def live(self) -> int:
        """How many communicators were neither destroyed nor given up."""
        return sum(len(set(world.joined) - world.destroyed) for world in self.worlds.values())


class _Communicator:
    def __init__(self, library: Library, size: int, unique_id: bytes, rank: int) -> None:
        assert isinstance(unique_id, bytes) and len(unique_id) == 128 and 0 <= rank < size
        self.library, self.rank, self.device = library, rank, standin._thread.device
        if rank in library.fails:
            raise NcclError(2, library.fails[rank])
        with library.changed:
            self.world = library.worlds.setdefault(unique_id, _World(size))
            if rank in library.stuck:
                library.changed.wait_for(library.over.is_set, _PATIENCE)
            self.world.joined[rank] = self.device
            library.changed.notify_all()
            library.changed.wait_for(lambda: len(self.world.joined) == size or library.over.is_set(), _PATIENCE)
        if len(self.world.joined) < size:
            raise NcclError(6, "remote process exited or there was a network error")
        if len(set(self.world.joined.values())) < size:
            raise NcclError(5, "invalid usage: one device was given to two ranks")
        self.count = 0

    def _call(self, name: str, where: int, count: int, kind: int, extra: int, stream: int,
              work: Callable[[list[Any]], list[Any]]) -> None:
        group = getattr(self.library.thread, "group", None)
        if group is not None:
            group.append((lambda: self._queue(name, where, count, kind, extra, stream, work), stream))
            return
        self._queue(name, where, count, kind, extra, stream, work)
        _Stream.known[stream].behind = False

    def _queue(self, name: str, where: int, count: int, kind: int, extra: int, stream: int,
               work: Callable[[list[Any]], list[Any]]) -> None:
        assert self.rank not in self.world.destroyed, "the communicator is gone"
        if self.rank in self.library.refuses:
            raise NcclError(1, self.library.refuses[self.rank])
        assert standin._thread.device == self.device == _Stream.known[stream].device_id
        assert _Stream.known[stream].behind, f"{name} does not come after what the computation has queued"
        assert standin._places.at(where, count * _KINDS[kind].itemsize) == self.device, f"{name} of foreign memory"
        memory = np.frombuffer((ctypes.c_char * (count * _KINDS[kind].itemsize)).from_address(where), _KINDS[kind])
        call = (name, count, kind, extra)
        with self.library.changed:
            self.library.log.setdefault(self.rank, []).append(call)
            meeting = self.world.meetings.setdefault(self.count, _Meeting(self.world.size))
            self.count += 1
            queued = _Queued(self.world, meeting, self.rank, memory)
            meeting.come(self.rank, call, queued.before, work)
        _Stream.known[stream].collectives.append(queued)

    def allReduce(self, send: int, recv: int, count: int, kind: int, op: int, stream: int) -> None:
        assert send == recv and op in (_SUM, _AVG)

        def work(inputs: list[Any]) -> list[Any]:
            scale = inputs[0].dtype.type(1 / len(inputs) if op == _AVG else 1)
            total = inputs[-1] * scale
            for each in inputs[-2::-1]:
                total = total + each * scale
            return [total] * len(inputs)

        self._call("allReduce", recv, count, kind, op, stream, work)

    def allGather(self, send: int, recv: int, count: int, kind: int, stream: int) -> None:
        size, item = self.world.size, _KINDS[kind].itemsize
        assert send == recv + self.rank * count * item

        def work(inputs: list[Any]) -> list[Any]:
            whole = np.concatenate([each[rank * count:(rank + 1) * count] for rank, each in enumerate(inputs)])
            return [whole] * size

        self._call("allGather", recv, count * size, kind, count, stream, work)

    def broadcast(self, send: int, recv: int, count: int, kind: int, root: int, stream: int) -> None:
        assert send == recv and 0 <= root < self.world.size
        self._call("broadcast", recv, count, kind, root, stream, lambda inputs: [inputs[root]] * len(inputs))

    def check_async_error(self) -> None:
        if self.rank in self.library.broken:
            raise NcclError(1, self.library.broken[self.rank])
        if self.world.aborted:
            raise NcclError(6, "remote process exited or there was a network error")

    def abort(self) -> None:
        with self.library.changed:
            self.world.destroyed.add(self.rank)

    def destroy(self) -> None:
        assert not self.world.aborted
        self.world.destroyed.add(self.rank)


@contextmanager
def installed(devices: int) -> Iterator[Library]:
    """Put it into the stand-in cupy that is installed, which then has so many devices; take it out again."""
    cuda: Any = sys.modules["cupy"].cuda
    wrapper = importlib.import_module("distgrad.backend.gpu.nccl")
    library = Library()
    null = _Stream(null=True)
    new = {"Event": _Event, "Stream": _Stream, "get_current_stream": lambda: null, "nccl": library}
    before = {name: getattr(cuda, name) for name in new}
    count, used = cuda.runtime.getDeviceCount, wrapper.nccl
    joining._failed.clear()  # it has not been tried with this one
    gpu: Any = backend.get("cuda")
    streams, gpu._copying = gpu._copying, {}  # that of copies is one of these, too
    vars(cuda).update(new)
    cuda.runtime.getDeviceCount, wrapper.nccl = lambda: devices, library
    try:
        yield library
    finally:
        with library.changed:
            library.over.set()
            library.changed.notify_all()
        vars(cuda).update(before)
        gpu._copying = streams
        cuda.runtime.getDeviceCount, wrapper.nccl = count, used
        _Stream.known.clear()
