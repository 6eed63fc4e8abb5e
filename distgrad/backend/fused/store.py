"""A private folder of small files, safe to share between processes that start at the same time.

Files appear whole or not at all, and carry a checksum: what is damaged counts as absent. A folder that
somebody else owns or may write to is not used, because what lies there is going to be executed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ...config import cache_folder

__all__ = ["Store"]

_MAGIC = b"distgrad machine code 1\n"
_DIGEST = 32
_PATIENCE = 60.0  # seconds that a process waits for another one's result before it makes its own
_NAP = 0.01


class Store:
    """One folder inside the user's cache.

    Attributes:
        folder: its path, or '' where there can be none.
        reason: then, why.
    """

    def __init__(self, name: str) -> None:
        self.folder, self.reason = "", ""
        try:
            self.folder = _private(name)
        except OSError as error:
            self.reason = str(error)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it is absent or damaged."""
        if not self.folder:
            return None
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                data = file.read()
        except OSError:
            return None
        begin = len(_MAGIC) + _DIGEST
        content = data[begin:]
        return content if data[:begin] == _MAGIC + _checksum(name, content) else None

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, at once; where that is not possible, nothing happens."""
        if not self.folder:
            return
        temporary = ""
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=f".{name}-", dir=self.folder)
            with open(descriptor, "wb") as file:
                file.write(_MAGIC + _checksum(name, content) + content)
            os.replace(temporary, os.path.join(self.folder, name))
        except OSError as error:
            self.reason = str(error)  # a full disk, perhaps
            with suppress(OSError):
                os.unlink(temporary)

    @contextmanager
    def alone(self, look: Callable[[], bytes | None]) -> Iterator[bytes | None]:
        """Hold the folder's lock for the body; gives what another process may have put there meanwhile.

        Waits for the lock until `look` finds something or patience ends. A lock goes with its process.
        """
        descriptor = -1
        try:
            if self.folder:
                with suppress(OSError):  # no lock on this file system: everybody works for himself
                    descriptor = os.open(os.path.join(self.folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
                    _lock(descriptor, look)
            yield look()
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _lock(descriptor: int, look: Callable[[], bytes | None]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if look() is not None:
                return
            time.sleep(_NAP)


def _checksum(name: str, content: bytes) -> bytes:
    """Of the name as well: a file under another one's name is foreign."""
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def _private(name: str) -> str:
    """Make the folder if need be, and check that nobody else has a hand in it.

    Raises:
        OSError: it cannot be made, or is not private.
    """
    base = cache_folder()
    if not os.path.isabs(base):
        raise OSError(f"{base!r} is no absolute path: set DISTGRAD_CACHE")
    folder = os.path.join(os.path.realpath(base), name)
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(folder, mode=0o700)
    for path in (os.path.dirname(folder), folder):
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise OSError(f"{path} is no folder")
        if found.st_uid != os.geteuid():
            raise OSError(f"{path} belongs to another user")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError(f"{path} may be written by others (mode {stat.S_IMODE(found.st_mode):o})")
    return folder
