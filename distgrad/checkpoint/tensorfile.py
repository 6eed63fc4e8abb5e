"""safetensors files in pieces: written from where arrays lie, read array by array after a strict look at the header.

The format: the header's length (8 bytes), the header (JSON), the arrays one after the other without gaps. The
library makes one block of memory of a whole file; checkpoints are too large for that.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .files import write_file

__all__ = ["DTYPES", "HEADER_LIMIT", "Entry", "TensorFile", "TensorReader", "parse_header", "strict_json",
           "to_storable"]

HEADER_LIMIT = 100_000_000  # bytes, the format's own bound; a damaged length must not allocate terabytes
DTYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
          "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8"}
_HEADER_MOST = 1 << 25  # bytes of a checkpoint's header; JSON takes many times its length once it is read
_LARGEST = 1 << 62
_CODES = {np.dtype(kind): code for code, kind in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Where one array lies: bytes [begin, end) after the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def to_storable(array: np.ndarray) -> np.ndarray | None:
    """An array of a dtype that the format has, with little-endian bytes; None where it has none.

    complex128 becomes pairs of float64, in one more dimension.
    """
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype == np.complex128:
        array = np.ascontiguousarray(array).reshape(-1).view(np.float64).reshape((*array.shape, 2))
    return array if array.dtype in _CODES else None


class TensorFile:
    """Arrays that are to be written to one file.

    Args:
        name: of the file.
        arrays: as `to_storable` gives them; written from their own memory, unless `copy` is called.
    """

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.name = name
        # Largest elements first, so that every array is aligned to its own.
        self._arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
        header, at = {}, 0
        for key, array in self._arrays.items():
            header[key] = {"dtype": _CODES[array.dtype], "shape": list(array.shape),
                           "data_offsets": [at, at + array.nbytes]}
            at += array.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self.nbytes = at

    def copy(self, room: np.ndarray | None = None) -> np.ndarray:
        """Copy the arrays, into `room` if it has the right size; what is written is the copy. Returns its memory."""
        if room is None or room.size != self.nbytes:
            room = np.empty(self.nbytes, np.uint8)
        at = 0
        for key, array in self._arrays.items():
            place = room[at:at + array.nbytes].view(array.dtype).reshape(array.shape)
            np.copyto(place, array)
            self._arrays[key] = place
            at += array.nbytes
        return room

    def write(self, folder: int) -> tuple[int, str]:
        """Write the file into the folder with this descriptor; its size and SHA-256."""
        lines = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in self._arrays.values())
        return write_file(folder, self.name, [self._header, *lines])


def strict_json(data: bytes, what: str) -> Any:
    """JSON without doubled names, NaN and Infinity.

    Raises:
        CheckpointError: it is none, or nested too deeply; names `what`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands there twice")
        return found

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    try:
        return json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not what it should be: {str(error)[:200]}") from None


def parse_header(data: bytes, length: int, what: str) -> dict[str, Entry]:
    """Where the arrays of a file lie.

    Args:
        data: the header, without its length.
        length: how many bytes follow it.
        what: the file's name, for messages.

    Raises:
        CheckpointError: anything but arrays of known dtypes that cover these bytes exactly.
    """
    header = strict_json(data, f"the header of {what}")
    if not isinstance(header, dict):
        raise CheckpointError(f"the header of {what} is no dictionary")
    header.pop("__metadata__", None)
    found: dict[str, Entry] = {}
    for key, value in header.items():
        match value:
            case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if \
                    code in DTYPES and all(type(n) is int and 0 <= n < _LARGEST for n in shape):
                dtype = np.dtype(DTYPES[code])
                if not 0 <= begin <= end <= length or end - begin != math.prod(shape) * dtype.itemsize:
                    raise CheckpointError(f"{what}: {key[:100]!r} does not lie where its header says")
                if len(shape) > 32:
                    raise CheckpointError(f"{what}: {key[:100]!r} has {len(shape)} dimensions")
                found[key] = Entry(dtype, tuple(shape), begin, end)
            case _:
                raise CheckpointError(f"{what}: its header says of {key[:100]!r} what is no array")
    at = 0
    for entry in sorted(found.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != at:
            raise CheckpointError(f"{what}: its arrays overlap, or leave gaps")
        at = entry.end
    if at != length:
        raise CheckpointError(f"{what}: {length:,} bytes follow the header, which speaks of {at:,}")
    return found


class TensorReader:
    """The arrays in an open file.

    Raises:
        CheckpointError: as `parse_header`, or the file ends before its header does.
    """

    def __init__(self, handle: int, what: str) -> None:
        size = os.fstat(handle).st_size
        length = int.from_bytes(os.pread(handle, 8, 0), "little")
        if size < 10 or not 2 <= length <= min(_HEADER_MOST, size - 8):
            raise CheckpointError(f"{what}: it has {size:,} bytes and wants a header of {length:,}")
        self.entries = parse_header(_read(handle, 8, np.empty(length, np.uint8), what).tobytes(), size - 8 - length,
                                    what)
        self._handle = handle
        self._begin = 8 + length
        self._what = what

    def read(self, key: str) -> np.ndarray:
        """One array, in new memory."""
        entry = self.entries[key]
        return self.read_elements(key, 0, (entry.end - entry.begin) // entry.dtype.itemsize).reshape(entry.shape)

    def read_elements(self, key: str, begin: int, end: int) -> np.ndarray:
        """Elements [begin, end) of an array, in one line."""
        entry = self.entries[key]
        room = np.empty((end - begin) * entry.dtype.itemsize, np.uint8)
        at = self._begin + entry.begin + begin * entry.dtype.itemsize
        line = _read(self._handle, at, room, self._what).view(entry.dtype)
        return line.astype(entry.dtype.newbyteorder("="), copy=False)


def _read(handle: int, at: int, room: np.ndarray, what: str) -> np.ndarray:
    """Fill `room` from the file, beginning at a position."""
    done = 0
    pread: Callable[..., int] = os.preadv
    while done < room.size:
        count = pread(handle, [room[done:]], at + done)
        if not count:
            raise CheckpointError(f"{what} ends at byte {at + done:,}, before its last array does")
        done += count
    return room
