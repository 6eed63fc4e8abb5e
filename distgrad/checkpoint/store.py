"""A folder of checkpoints: which there are, how one appears whole or not at all, and who may write.

    runs/a/lock                      held by the one job that writes
           000007-step-1200/         a checkpoint: the seventh that was saved here
           .000008-step-1300.*.part  one that is being written
           .000004-step-900.*.old    one that is being removed

It knows names and descriptors; what is in a checkpoint is not known here. The newest is the one saved last, which
need not have the highest step: a job may have gone back.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..errors import CheckpointError
from .files import flush_folder

__all__ = ["Place", "Store"]

_NAME = re.compile(r"(\d{6,15})-step-(\d{1,19})")
_LEFT = re.compile(r"\.(\d{6,15})-step-\d{1,19}\.[0-9a-f]{8}\.(part|old)")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOOKS, _PAUSE = 5, 0.01  # how often a folder is listed that seems empty while a job writes there, and seconds between
_ATTEMPTS = 200  # to remove a folder in which others may be writing
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what file systems without locks say


@dataclass(frozen=True, order=True)
class Place:
    """One checkpoint's place; a later serial is a newer one."""

    serial: int
    step: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.serial:06d}-step-{self.step}"

    @classmethod
    def of(cls, name: str) -> Place | None:
        """The place whose folder has this name; None if no checkpoint's has."""
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2])) if match else None


class Store:
    """An open folder of checkpoints.

    Args:
        path: of the folder.
        create: make it where it is not there, readable by its owner alone.

    Raises:
        OSError: it is not there, is no folder, or cannot be made.
    """

    def __init__(self, path: str, create: bool = False) -> None:
        self.path = os.path.abspath(path)
        if create:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
        self._handle = os.open(self.path, _FOLDER)
        self._lock: int | None = None
        self.damaged: set[str] = set()  # names of checkpoints that were found so

    def close(self) -> None:
        """Give the lock and the descriptors back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    # -- who may write

    def lock(self) -> None:
        """Become the one that writes here, until `close` or the end of the process.

        Raises:
            CheckpointError: another job is.
            OSError: the lock file cannot be made.
        """
        handle = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600,
                         dir_fd=self._handle)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise CheckpointError(f"{self.path}: 'lock' is no regular file; remove it, or take another folder")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 1000, 0).decode(errors="replace").strip() or "it has not said which"
            os.close(handle)
            raise CheckpointError(f"{self.path}: another job writes checkpoints there ({owner}); end it, or take "
                                  "another folder (reading is always possible)") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(handle)
                raise
            sys.stderr.write(f"distgrad: {self.path}: the file system has no locks; see to it that no other job writes "
                             "checkpoints there\n")
        except BaseException:
            os.close(handle)
            raise
        with suppress(OSError):  # a full disk: it is only for people
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"host": os.uname().nodename, "process": os.getpid()}).encode() + b"\n", 0)
        self._lock = handle

    # -- what is there

    def places(self) -> list[Place]:
        """All checkpoints, the newest first."""
        found: list[Place] = []
        for _ in range(_LOOKS):
            names = self._names()
            found = [place for name in names if (place := Place.of(name)) and self.has(place.name)]
            if found or not any(Place.of(name) or _LEFT.fullmatch(name) for name in names):
                break
            time.sleep(_PAUSE)  # a listing can miss what is renamed while it is made
        return sorted(found, reverse=True)

    def _names(self) -> list[str]:
        handle = os.open(".", _FOLDER, dir_fd=self._handle)  # one of its own: a listing moves its position
        try:
            return os.listdir(handle)
        finally:
            os.close(handle)

    def has(self, name: str) -> bool:
        """Whether there is a folder of this name."""
        with suppress(OSError):
            return stat.S_ISDIR(os.stat(name, dir_fd=self._handle, follow_symlinks=False).st_mode)
        return False

    def open(self, name: str) -> int:
        """A descriptor of a folder in this one.

        Raises:
            CheckpointError: it is a link or no folder.
            OSError: it is not there, or cannot be opened.
        """
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self._handle)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise CheckpointError(f"{name} is no folder") from None
            raise

    # -- one more, and fewer

    def begin(self, step: int) -> tuple[Place, str]:
        """Make the folder in which the next checkpoint is written."""
        serials = [found.serial for name in self._names() if (found := Place.of(name))]
        place = Place(max(serials, default=0) + 1, step)
        part = f".{place.name}.{secrets.token_hex(4)}.part"
        os.mkdir(part, 0o700, dir_fd=self._handle)
        return place, part

    def sweep(self) -> None:
        """Remove what saves that were cut off have left. Only for the one that writes here."""
        for name in self._names():
            if _LEFT.fullmatch(name):
                self.remove(name)

    def publish(self, part: str, name: str) -> None:
        """Give a written folder its name, in one step.

        Raises:
            OSError: it cannot be renamed, or a folder of that name is there.
        """
        os.rename(part, name, src_dir_fd=self._handle, dst_dir_fd=self._handle)
        flush_folder(self._handle)

    def rotate(self, keep: int) -> None:
        """Remove what is older than the newest `keep` checkpoints; those that are known as damaged do not count."""
        places = self.places()
        kept = [place for place in places if place.name not in self.damaged][:keep]
        for place in places if len(kept) == keep else ():
            if place >= kept[-1]:
                continue
            old = f".{place.name}.{secrets.token_hex(4)}.old"
            with suppress(OSError):
                os.rename(place.name, old, src_dir_fd=self._handle, dst_dir_fd=self._handle)
                self.remove(old)

    def give_up(self, part: str) -> None:
        """Remove the folder of a save that failed.

        Its name goes first, in one step: by that the other ranks know. They may still be writing in the folder, so
        that removing it can take several attempts; what is left even then goes with the next job's sweep.
        """
        old = f"{part.removesuffix('part')}old"
        try:
            os.rename(part, old, src_dir_fd=self._handle, dst_dir_fd=self._handle)
        except OSError:
            old = part
        for _ in range(_ATTEMPTS):
            self.remove(old)
            if not self.has(old):
                return
            time.sleep(_PAUSE)

    def remove(self, name: str) -> None:
        """Remove a folder that is no checkpoint (any more); what cannot be removed stays for the next time."""
        remove: Callable[..., None] = shutil.rmtree if self.has(name) else os.unlink
        with suppress(OSError):
            remove(name, dir_fd=self._handle)
