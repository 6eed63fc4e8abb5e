"""Arrays in HDF5 files, by h5py: its only door, loaded when the first such dataset is made."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .files import FileDataset, PathLike

__all__ = ["HDF5Dataset"]

_ROWS_A_READ = 10  # a read of its own costs as much as this many rows more in one that gathers


class HDF5Dataset(FileDataset):
    """Rows of a dataset in an HDF5 file: `HDF5Dataset("train.h5", "images")`.

    Rows that lie next to each other are read at once, those of a shuffled batch in the order of the file.
    Threads share one open file, since the library serves one of them at a time; each process opens its own.

    Args:
        name: the dataset within the file, such as "images" or "group/images".
        locking: False opens the file without the library's lock, for file systems that have none.
        transform: a function of each row's tensor.

    Raises:
        ImportError: h5py is not installed.
        FileNotFoundError, OSError: the file is not there, or is no HDF5 file.
        KeyError: it has no such dataset; says which it has.
        TypeError: an element type that tensors do not have.
    """

    def __init__(self, path: PathLike, name: str, *, locking: bool | None = None,
                 transform: Callable[[Any], Any] | None = None) -> None:
        super().__init__(path, transform)
        if not isinstance(name, str):
            raise TypeError(f"HDF5Dataset: name is a string, got {name!r}")
        self.name = name
        self.locking = locking
        self._lock = threading.Lock()
        self._opened: tuple[int, Any, Any] | None = None
        library = _library()
        with self._file(library) as file:
            found = file.get(name)
            if not isinstance(found, library.Dataset):
                names: list[str] = []
                file.visititems(lambda at, item: names.append(at) if isinstance(item, library.Dataset) else None)
                raise KeyError(f"HDF5Dataset: {self.path} has no dataset {name!r}; it has {', '.join(names) or 'none'}")
            if found.shape is None:
                raise ValueError(f"HDF5Dataset: {name!r} in {self.path} is empty")
            self._describe(found.shape, found.dtype)

    def _file(self, library: Any) -> Any:
        try:
            return library.File(self.path, "r", locking=self.locking)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OSError(f"HDF5Dataset: {self.path} cannot be read as an HDF5 file: {error}") from None

    def _read(self, indices: np.ndarray) -> np.ndarray:
        source = self._source()
        order, inverse = np.unique(indices, return_inverse=True)
        starts = np.flatnonzero(np.diff(order, prepend=-2) != 1).tolist()  # where neighbours end and others begin
        if _ROWS_A_READ * len(starts) > len(order) and len(starts) > 1:
            found = source[order]
        else:
            found = np.empty((len(order), *self.shape[1:]), self.dtype)
            for begin, end in zip(starts, [*starts[1:], len(order)]):
                if found[begin:end].size:
                    source.read_direct(found, np.s_[int(order[begin]):int(order[end - 1]) + 1], np.s_[begin:end])
        return found if (np.diff(indices) > 0).all() else found[inverse]

    def _source(self) -> Any:
        """The dataset, in this process's own open file."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                file = self._file(_library())
                self._opened = os.getpid(), file, file[self.name]
            return self._opened[2]

    def close(self) -> None:
        """Close the file; reading opens it again."""
        with self._lock:
            if self._opened is not None and self._opened[0] == os.getpid():
                self._opened[1].close()
            self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None, "_lock": None}  # another process opens the file for itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())


def _library() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('HDF5 files need the package h5py: pip install "distgrad[hdf5]"') from error
    return h5py
