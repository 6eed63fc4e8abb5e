"""What a device offers to the layers above: an array namespace, memory, copies and kernels.

A Backend is found by an array's type (`of`) or by a device (`get`). Kernels are looked up by name:
a backend's own override first, then the readable reference, bound to this backend's `xp`.
It refuses to know tensors, graphs and ranks.
"""

from __future__ import annotations

import importlib
from abc import ABC
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any

from .._typing import Array, DType, Shape
from .collectives import Collectives

__all__ = ["Backend", "Copy", "Device", "DeviceArray", "Kernels", "cuda_device", "default_place", "device_of",
           "found_several", "get", "get_default_device", "is_pinned", "move", "of", "of_type", "register",
           "set_default_device", "when_several"]


class Device:
    """Where an array lies: a type ('cpu', 'cuda', 'strict') and, for several of one type, an index."""

    __slots__ = ("index", "type")

    def __init__(self, type: str | Device, index: int | None = None) -> None:
        if isinstance(type, Device):
            type, index = type.type, type.index if index is None else index
        kind, _, number = type.partition(":")
        if number:
            if index is not None or not number.isdigit():
                raise RuntimeError(f"device {type!r} is not of the form 'cpu', 'cuda' or 'cuda:0'")
            index = int(number)
        if kind not in _FACTORIES:
            raise RuntimeError(f"unknown device type {kind!r}; this build knows {', '.join(sorted(_FACTORIES))}")
        self.type = kind
        self.index = index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"device(type={self.type!r})" if self.index is None else \
            f"device(type={self.type!r}, index={self.index})"


class Kernels:
    """A backend's kernels as attributes: `kernels.layer_norm(x, ...)`. Looked up once, then kept."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = self._backend.override(name)
        if found is None:
            found = self._backend.bind(importlib.import_module("distgrad.backend.reference").find(name))
        setattr(self, name, found)
        return found


class DeviceArray(ABC):  # noqa: B024 - nothing is abstract in it: backends register their arrays
    """Raw arrays of every backend that is loaded, for isinstance."""


class Copy:
    """A copy that was begun. This one has ended."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return True

    def wait(self) -> None:
        """Return when it has ended."""


class Backend:
    """One kind of device. Subclasses fill in the memory calls and, where faster, kernels."""

    name: str
    xp: ModuleType
    array_type: type
    scalar_types: tuple[type, ...] = ()
    device: Device
    several = False  # whether there are several devices of this kind

    def __init__(self) -> None:
        self.kernels = Kernels(self)

    @property
    def special(self) -> ModuleType:
        """scipy.special, or its counterpart for this device's arrays."""
        raise NotImplementedError(self.name)

    def override(self, name: str) -> Callable[..., Any] | None:
        """A kernel of this device's own, or None for the reference."""
        return None

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function (xp, *arrays) for this device's arrays."""
        return partial(function, self.xp)

    def empty(self, shape: Shape, dtype: DType) -> Array:
        """Uninitialised memory. Every allocation of the layers above passes here."""
        return self.xp.empty(shape, dtype)

    def from_host(self, array: Array, device: Device | None = None, non_blocking: bool = False) -> Array:
        """A host array's content on this device; no copy where the device is the host.

        Args:
            device: which one, where there are several; None for the current one.
            non_blocking: the host's memory may be read until the device is synchronized, where it is pinned.
        """
        raise NotImplementedError(self.name)

    def to_host(self, array: Array, out: Array | None = None, non_blocking: bool = False) -> Array:
        """The content as a numpy array; no copy where the device is the host.

        Args:
            out: the memory of the host that takes it, of the same shape and dtype.
            non_blocking: the content is there only when the device has been synchronized.
        """
        raise NotImplementedError(self.name)

    def fill_from_host(self, array: Array, host: Array, non_blocking: bool = False) -> None:
        """Write the content of a host array of the same shape into an array of this device.

        Args:
            non_blocking: as for `from_host`.
        """
        raise NotImplementedError(self.name)

    def between(self, array: Array, device: Device) -> Array:
        """The content on another device of this kind."""
        return self.from_host(self.to_host(array), device)

    def host_memory(self, shape: Shape, dtype: DType) -> Array:
        """New memory of the host for copies to and from this device: pinned where that makes them faster."""
        return get("cpu").xp.empty(shape, dtype)

    def is_pinned(self, host: Array) -> bool:
        """Whether memory of the host is such that copies to and from this device need not be waited for."""
        return False

    def pinned(self, host: Array) -> Array:
        """A copy of an array of the host in pinned memory.

        Raises:
            RuntimeError: this device has none, or there is not so much.
        """
        raise RuntimeError(f"memory of the host cannot be pinned for {self.name}")

    def pin(self, host: Array) -> None:
        """Make copies to and from existing memory of the host fast, where that can be done."""

    def start_to_host(self, array: Array, out: Array) -> Copy:
        """Begin to copy into memory of the host; what is queued on the device before is in the copy."""
        self.to_host(array, out)
        return Copy()

    def uniform(self, stream: Any, shape: Shape, device: Device | None = None) -> Array:
        """float32 numbers drawn evenly from [0, 1), which follow from the state of a host's random stream."""
        return self.from_host(stream.random(shape, dtype="float32"), device)

    def address(self, array: Array) -> int:
        """Where the first element lies."""
        raise NotImplementedError(self.name)

    def device_of(self, array: Array) -> Device:
        """Which device of this kind an array lies on."""
        return self.device

    def place(self, device: Device) -> Device:
        """A device of this kind, with its index where there are several; RuntimeError when it is not there."""
        return self.device

    def using(self, device: Device) -> AbstractContextManager[Any]:
        """A context in which new arrays lie on this device."""
        return nullcontext()

    def beside(self, array: Array) -> AbstractContextManager[Any] | None:
        """A context for work on an array; None where none is needed: that is so unless there are several devices."""
        return None

    def synchronize(self, device: Device | None = None) -> None:
        """Return when everything queued on the device has ended."""

    # Collectives among devices, where there may be any: a kind of device that never has them says `speaks = False`.

    speaks = False

    def identity(self, device: Device) -> str:
        """What tells a device from all others of its machine, in every process."""
        raise NotImplementedError(self.name)

    def why_no_collectives(self) -> str:
        """What is missing for `collectives`, and what to do; empty where nothing is."""
        raise NotImplementedError(self.name)

    def collectives_version(self) -> int:
        """That of the library; ranks need one and the same."""
        raise NotImplementedError(self.name)

    def collective_id(self) -> bytes:
        """What the first rank makes and all others are given, so that they find each other in `collectives`."""
        raise NotImplementedError(self.name)

    def collectives(self, unique_id: bytes, rank: int, size: int) -> Collectives:
        """Join the other ranks, with the current device; returns when all have called it."""
        raise NotImplementedError(self.name)


_FACTORIES: dict[str, str] = {"cpu": "distgrad.backend.cpu", "cuda": "distgrad.backend.gpu",
                              "strict": "distgrad.backend.strict"}
_BY_TYPE: dict[type, Backend] = {}
_BY_NAME: dict[str, Backend] = {}
_waiting: list[Callable[[], None]] = []


def register(backend: Backend) -> Backend:
    """Make a backend known under its name and its array type."""
    _BY_NAME[backend.name] = backend
    _BY_TYPE[backend.array_type] = backend
    DeviceArray.register(backend.array_type)
    return backend


def when_several(callback: Callable[[], None]) -> None:
    """Call `callback()` once when a kind of device turns out to have several; at once where that is known."""
    if any(backend.several for backend in _BY_NAME.values()):
        callback()
    else:
        _waiting.append(callback)


def found_several() -> None:
    """A backend that was just registered has several devices."""
    while _waiting:
        _waiting.pop()()


def of_type(kind: type) -> Backend:
    """The backend whose arrays are of this type.

    Raises:
        TypeError: no backend has arrays of this type.
    """
    try:
        return _BY_TYPE[kind]
    except KeyError:
        for backend in _BY_NAME.values():  # subclasses, and the scalars that 0-d arithmetic yields
            if issubclass(kind, (backend.array_type, *backend.scalar_types)):
                return backend
        raise TypeError(f"{kind.__name__} is neither a tensor nor an array of a known device") from None


def of(array: Array) -> Backend:
    """The backend of a raw array; TypeError when it is none."""
    return of_type(array.__class__)


def get(device: Device | str) -> Backend:
    """The backend of a device, loaded when first asked for."""
    kind = Device(device).type
    if kind not in _BY_NAME:
        importlib.import_module(_FACTORIES[kind])
    return _BY_NAME[kind]


def device_of(array: Array) -> Device:
    """The device on which a raw array lies."""
    return of(array).device_of(array)


def move(array: Array, device: Device | str, non_blocking: bool = False) -> Array:
    """The content of a raw array on `device`; the array itself where it is there already.

    Args:
        non_blocking: do not wait for a copy between pinned memory of the host and a device; what comes to the host
            is there when the device has been synchronized.
    """
    source, target = of(array), get(device)
    place = target.place(Device(device))
    if source.device_of(array) == place:
        return array
    if source is target:
        return source.between(array, place)
    if place.type == "cpu":
        return source.to_host(array, non_blocking=non_blocking)
    return target.from_host(source.to_host(array), place, non_blocking)


def is_pinned(host: Array) -> bool:
    """Whether memory of the host is pinned for a backend that is loaded."""
    return any(backend.is_pinned(host) for backend in _BY_NAME.values())


def cuda_device(device: Any = None) -> Device:
    """A GPU from what people give for one: nothing, a number, 'cuda', 'cuda:1' or a Device.

    Raises:
        RuntimeError: a device of another kind.
    """
    found = Device("cuda", device) if device is None or isinstance(device, int) else Device(device)
    if found.type != "cuda":
        raise RuntimeError(f"{found} is no CUDA device; name one by its number or as 'cuda:0'")
    return found


_default: Device | None = None  # None is the host, without a look at it


def default_place() -> Device | None:
    """Where tensors are made when nothing is said; None for the host."""
    return _default


def get_default_device() -> Device:
    """The device on which tensors are made when nothing is said."""
    return Device("cpu") if _default is None else get(_default).place(_default)


def set_default_device(device: Device | str | None) -> None:
    """Make tensors on `device` from now on, in all threads, where nothing else is said; None is the host.

    It is asked by functions that make tensors (`tensor`, `zeros`, `randn`, ...) and by layers; `from_numpy`, which
    shares memory, and `*_like` stay where they are. 'cuda' without a number is each thread's own device.

    Raises:
        RuntimeError: the device is unknown, or not there.
    """
    global _default
    found = Device("cpu") if device is None else Device(device)
    get(found).place(found)
    _default = None if found.type == "cpu" else found
