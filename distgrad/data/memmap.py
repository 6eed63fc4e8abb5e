"""Arrays in .npy and raw files, mapped into memory: ranks and workers of a machine share its page cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .files import FileDataset, PathLike
from .resumable import require_count
from .rows import take_rows

__all__ = ["MemmapDataset"]


class MemmapDataset(FileDataset):
    """Rows of an array in a .npy file, or in a raw file of numbers one after the other.

    `MemmapDataset("x.npy")` takes dtype and shape from the file; with a dtype the file is raw:
    `MemmapDataset("x.bin", "float32", (28, 28))`.

    Args:
        dtype: of a raw file's numbers; a byte order other than this machine's is translated.
        row_shape: of one sample of a raw file.
        offset: bytes to leave out at a raw file's beginning.
        transform: a function of each row's tensor.

    Raises:
        FileNotFoundError, PermissionError: the file is not there, or not to be read.
        ValueError: it is no .npy file, is cut off, or a raw file is no whole number of rows.
        TypeError: an element type that tensors do not have; nothing is unpickled.
    """

    def __init__(self, path: PathLike, dtype: Any = None, row_shape: Sequence[int] = (), *, offset: int = 0,
                 transform: Callable[[Any], Any] | None = None) -> None:
        super().__init__(path, transform)
        self._opening = threading.Lock()
        self._array: np.ndarray | None = None
        if dtype is None:
            if row_shape or offset:
                raise ValueError("MemmapDataset: row_shape and offset are of raw files; give their dtype too")
            self._layout: tuple[int, np.dtype[Any], tuple[int, ...], bool] = self._npy()
        else:
            self._layout = self._raw(np.dtype(dtype), tuple(row_shape), require_count("offset", offset, 0))
        begin, kind, shape, _ = self._layout
        self._describe(shape, kind)
        needed = begin + kind.itemsize * int(np.prod(shape, dtype=np.int64))
        if os.path.getsize(self.path) < needed:
            raise ValueError(f"MemmapDataset: {self.path} is cut off: {needed} bytes are {shape} of {kind}, and it has "
                             f"{os.path.getsize(self.path)}")

    def _npy(self) -> tuple[int, np.dtype[Any], tuple[int, ...], bool]:
        with open(self.path, "rb") as file:
            try:
                major, _ = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, fortran, kind = read(file)
            except ValueError as error:
                raise ValueError(f"MemmapDataset: {self.path} is no .npy file ({error}); a raw file needs a "
                                 "dtype") from None
            return file.tell(), kind, shape, fortran

    def _raw(self, kind: np.dtype[Any], row_shape: tuple[int, ...],
             offset: int) -> tuple[int, np.dtype[Any], tuple[int, ...], bool]:
        for size in row_shape:
            require_count("row_shape", size, 1)
        row = kind.itemsize * int(np.prod(row_shape, dtype=np.int64))
        size = os.path.getsize(self.path) - offset
        if size < 0 or not row or size % row:
            raise ValueError(f"MemmapDataset: {self.path} has {size} bytes after the offset {offset}, which is no "
                             f"whole number of rows of {row} bytes, {row_shape} of {kind}")
        return offset, kind, (size // row, *row_shape), False

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._array is None:
            with self._opening:
                if self._array is None:
                    self._array = self._open()
        return take_rows(self._array, indices)

    def _open(self) -> np.ndarray:
        begin, kind, shape, fortran = self._layout
        if not all(shape):  # nothing can be mapped
            return np.empty(shape, kind)
        mapped: np.ndarray = np.memmap(self.path, kind, "r", begin, shape, "F" if fortran else "C")
        return mapped.view(np.ndarray)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_array": None, "_opening": None}  # another process maps the file for itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _opening=threading.Lock())
