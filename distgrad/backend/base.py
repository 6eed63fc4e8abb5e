"""What a device offers to the layers above: an array namespace, memory, copies and kernels.

A Backend is found by an array's type (`of`) or by a device (`get`). Kernels are looked up by name:
a backend's own override first, then the readable reference, bound to this backend's `xp`.
It refuses to know tensors, graphs and ranks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from .._typing import Array, DType, Shape

__all__ = ["Backend", "Device", "Kernels", "device_of", "get", "of", "of_type", "register"]


class Device:
    """Where an array lies: a type ('cpu', 'cuda') and, for several of one type, an index."""

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
            reference = importlib.import_module("distgrad.backend.reference").find(name)
            found = partial(reference, self._backend.xp)
        setattr(self, name, found)
        return found


class Backend:
    """One kind of device. Subclasses fill in the memory calls and, where faster, kernels."""

    name: str
    xp: ModuleType
    array_type: type
    scalar_types: tuple[type, ...] = ()
    device: Device

    def __init__(self) -> None:
        self.kernels = Kernels(self)

    @property
    def special(self) -> ModuleType:
        """scipy.special, or its counterpart for this device's arrays."""
        raise NotImplementedError(self.name)

    def override(self, name: str) -> Callable[..., Any] | None:
        """A kernel of this device's own, or None for the reference."""
        return None

    def empty(self, shape: Shape, dtype: DType) -> Array:
        """Uninitialised memory. Every allocation of the layers above passes here."""
        return self.xp.empty(shape, dtype)

    def from_host(self, array: Array) -> Array:
        """A host array's content on this device; no copy where the device is the host."""
        raise NotImplementedError(self.name)

    def to_host(self, array: Array) -> Array:
        """The content as a numpy array; no copy where the device is the host."""
        raise NotImplementedError(self.name)

    def synchronize(self) -> None:
        """Return when everything queued on the device has ended."""


_FACTORIES: dict[str, str] = {"cpu": "distgrad.backend.cpu"}
_BY_TYPE: dict[type, Backend] = {}
_BY_NAME: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Make a backend known under its name and its array type."""
    _BY_NAME[backend.name] = backend
    _BY_TYPE[backend.array_type] = backend
    return backend


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
    return of(array).device
