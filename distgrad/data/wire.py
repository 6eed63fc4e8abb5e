"""Batches as bytes between a loader and its worker processes: a JSON header and raw arrays, nothing executable.

What is large travels in memory that has no name, so that nothing of it can stay behind; a pipe carries the
rest, and the descriptor of that memory. It is copied out, for Python keeps a descriptor open for whatever
it maps, and a program that keeps its batches would run out of them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from .._tensor.creation import from_numpy
from ..backend import of
from ..graph.base import TensorBase

__all__ = ["IN_FLIGHT", "decode", "encode", "receive", "send", "widen"]

INLINE = 4096     # bytes that go through the pipe itself
IN_FLIGHT = 32    # messages of that size which fit into a pipe that nobody reads
_ALIGN = 64       # bytes
_PLAIN = (type(None), bool, int, float, str)
_SEND_BUFFER = 1 << 18


def encode(value: Any) -> tuple[Any, list[np.ndarray]]:
    """A structure as JSON types, and the arrays in it.

    Raises:
        TypeError: something that is no tensor, array, number, string, list, tuple or dict.
    """
    arrays: list[np.ndarray] = []
    return _encode(value, arrays), arrays


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, TensorBase):
        return ["tensor", _array(of(value.array).to_host(value.array), arrays)]
    if isinstance(value, np.generic):
        return ["scalar", _array(np.asarray(value), arrays)]
    if isinstance(value, np.ndarray):
        return ["array", _array(value, arrays)]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind in (bytes, bytearray):
        return [kind.__name__, _array(np.frombuffer(value, np.uint8), arrays)]
    if kind in (list, tuple):
        return [kind.__name__, [_encode(item, arrays) for item in value]]
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return ["named", kind.__module__, kind.__qualname__, [_encode(item, arrays) for item in value]]
    if kind is dict:
        return ["dict", [[_encode(key, arrays), _encode(item, arrays)] for key, item in value.items()]]
    raise TypeError(f"a worker process sends tensors, arrays, numbers, strings, lists, tuples and dicts, and not "
                    f"{kind.__name__}: make them in collate_fn, or take worker='thread'")


def _array(array: np.ndarray, arrays: list[np.ndarray]) -> list[Any]:
    if array.dtype.kind not in "biufcSUmM":
        raise TypeError(f"a worker process does not send arrays of {array.dtype}: take worker='thread'")
    arrays.append(np.ascontiguousarray(array))
    return [array.dtype.str, list(array.shape)]


def decode(value: Any, memory: Any) -> Any:
    """What `encode` made a header of; its arrays lie in `memory`, in order, and are not copied."""
    return _Decoder(memory).decode(value)


class _Decoder:
    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self._place = 0

    def decode(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        kind, *rest = value
        if kind in ("list", "tuple"):
            items = [self.decode(item) for item in rest[0]]
            return items if kind == "list" else tuple(items)
        if kind == "dict":
            return {self.decode(key): self.decode(item) for key, item in rest[0]}
        if kind == "named":
            return _named(*rest[:2])(*[self.decode(item) for item in rest[2]])
        if kind == "complex":
            return complex(*rest)
        array = self._take(*rest[0])
        if kind == "tensor":
            return from_numpy(array)
        if kind in ("bytes", "bytearray"):
            return (bytes if kind == "bytes" else bytearray)(array.tobytes())
        return array[()].copy() if kind == "scalar" else array

    def _take(self, dtype: str, shape: list[int]) -> np.ndarray:
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        size = count * kind.itemsize
        if not size:
            return np.empty(shape, kind)
        array = np.frombuffer(self._memory, kind, count, self._place).reshape(shape)
        self._place += _padded(size)
        return array


def _named(module: str, name: str) -> type:
    """The named tuple of this name. Only what this process has loaded itself is looked at."""
    found: Any = sys.modules.get("__main__" if module == "__mp_main__" else module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise TypeError(f"a worker process sent a named tuple {module}.{name}, which this process does not know")
    return found


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


# -- messages

def widen(connection: Connection) -> None:
    """Give a pipe's end room for as many small messages as may be on their way at once."""
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def send(connection: Connection, value: Any, peer: int) -> None:
    """Send a structure through a pipe to the process `peer`."""
    header, arrays = encode(value)
    text = json.dumps(header, separators=(",", ":")).encode()
    size = sum(_padded(array.nbytes) for array in arrays)
    first = len(text) if len(text) + size > INLINE else 0  # where the arrays begin, if the memory holds the text too
    if not first:
        payload = b"".join(array.tobytes().ljust(_padded(array.nbytes), b"\0") for array in arrays)
        connection.send_bytes(len(text).to_bytes(8, "little") + bytes(8) + text + payload)
        return
    first = _padded(first)
    memory = _memory(first + size)
    try:
        _write(memory, text, 0)
        place = first
        for array in arrays:
            _write(memory, array.reshape(-1).view(np.uint8).data if array.size else b"", place)
            place += _padded(array.nbytes)
        connection.send_bytes(len(text).to_bytes(8, "little") + (first + size).to_bytes(8, "little"))
        reduction.send_handle(connection, memory, peer)
    finally:
        os.close(memory)


def receive(connection: Connection, memory_for: Callable[[int], np.ndarray] | None = None) -> Any:
    """The next structure from a pipe.

    Args:
        memory_for: gives memory of so many bytes for what is large, instead of ordinary one.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    message = connection.recv_bytes()
    length, size = (int.from_bytes(message[i:i + 8], "little") for i in (0, 8))
    if not size:
        return decode(json.loads(message[16:16 + length]), bytearray(message[16 + length:]))
    array = np.empty(size, np.uint8) if memory_for is None else memory_for(size)
    memory = memoryview(array)  # type: ignore[arg-type]
    done = 0
    with open(reduction.recv_handle(connection), "rb", buffering=0) as file:
        while done < size:  # one call gives no more than 2 GiB
            found = file.readinto(memory[done:])
            if not found:
                raise EOFError("a batch is shorter than it says")
            done += found
    return decode(json.loads(bytes(memory[:length])), memory[_padded(length):])


def _memory(size: int) -> int:
    """A descriptor of so much memory, without a name."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("distgrad-batch", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile(prefix="distgrad-batch-") as opened:
            file = os.dup(opened.fileno())
    os.truncate(file, size)
    return file


def _write(file: int, data: Any, place: int) -> None:
    view = memoryview(data)
    while len(view):
        done = os.pwrite(file, view, place)
        view, place = view[done:], place + done
