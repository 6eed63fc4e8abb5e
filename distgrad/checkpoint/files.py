"""Single files of a checkpoint: opened without following links, written once and flushed, hashed on the way.

It knows names, descriptors and bytes; what the bytes mean is not known here.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import CheckpointError

__all__ = ["check_name", "flush_folder", "hashed", "open_regular", "read_whole", "write_file"]

_CHUNK = 1 << 20  # bytes that are hashed and written at a time: they stay in the cache in between
# Letters that mean nothing to a file system, so that a name cannot lead out of its folder.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_KINDS = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"),
          (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def check_name(name: Any) -> str:
    """`name`, if it can be that of a file in its own folder and nowhere else.

    Raises:
        CheckpointError: it has a slash, begins with a dot, or is otherwise none that a checkpoint has.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CheckpointError(f"{str(name)[:100]!r} is no name of a file in a checkpoint")
    return name


@contextmanager
def open_regular(folder: int, name: str) -> Iterator[int]:
    """A descriptor of a regular file in the folder with this descriptor, for reading.

    Raises:
        CheckpointError: the name leads elsewhere; there is no such file, or a link, FIFO, device in its place.
        OSError: it cannot be opened.
    """
    check_name(name)
    try:
        _require_regular(name, os.stat(name, dir_fd=folder, follow_symlinks=False))  # opening a device can do things
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise CheckpointError(f"{name} is missing") from None
    try:
        _require_regular(name, os.fstat(handle))  # it may have been replaced in between
        yield handle
    finally:
        os.close(handle)


def _require_regular(name: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = next((text for test, text in _KINDS if test(found.st_mode)), "something else")
        raise CheckpointError(f"{name} is {what}, not a regular file")


def read_whole(folder: int, name: str, limit: int) -> bytes:
    """The content of a file that has at most `limit` bytes.

    Raises:
        CheckpointError: as `open_regular`, or the file is larger.
    """
    with open_regular(folder, name) as handle:
        size = os.fstat(handle).st_size
        if size > limit:
            raise CheckpointError(f"{name} has {size:,} bytes, more than the {limit:,} that it may have")
        parts = []
        while size > 0 and (part := os.read(handle, min(size, _CHUNK))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def hashed(handle: int) -> Iterator[str]:
    """The SHA-256 of an open file: yields an empty string after each piece, and the digest at last."""
    found = hashlib.sha256()
    room = bytearray(_CHUNK)
    view = memoryview(room)
    while count := os.readv(handle, [room]):
        found.update(view[:count])
        yield ""
    yield found.hexdigest()


def write_file(folder: int, name: str, parts: Iterable[Any]) -> tuple[int, str]:
    """Write a new file, readable by its owner alone, and flush it to the disk; its size and SHA-256.

    Raises:
        OSError: it is there already, the disk is full, ...
    """
    found, size = hashlib.sha256(), 0
    handle = os.open(check_name(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                     dir_fd=folder)
    try:
        for part in parts:
            whole = memoryview(part).cast("B")
            for begin in range(0, len(whole), _CHUNK):
                piece = whole[begin:begin + _CHUNK]
                found.update(piece)
                size += len(piece)
                while piece:
                    piece = piece[os.write(handle, piece):]
        os.fsync(handle)
    finally:
        os.close(handle)
    return size, found.hexdigest()


def flush_folder(handle: int) -> None:
    """Flush the names in a folder to the disk, where its file system can do that."""
    with suppress(OSError):  # some network file systems cannot
        os.fsync(handle)
