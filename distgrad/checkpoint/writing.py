"""One save on one rank: write its files, then wait until all ranks have written theirs and rank 0 has published.

The ranks wait for each other by looking at the folder, not over the network: a save may take minutes, in a thread
beside training, and must neither disturb the ranks' own messages nor run into their deadlines.

[Note: marks] Each rank has a mark in the folder from the beginning: `rank-00001.writing`. It becomes
`rank-00001.done`, or it is removed, which needs no room on a full disk: then nothing is published.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from .files import flush_folder, read_whole, write_file
from .manifest import LIMIT, MANIFEST, Manifest
from .store import Place, Store
from .tensorfile import TensorFile

__all__ = ["Job"]

_SHORT, _LONG = 0.002, 0.02  # seconds between two looks, at first and later on
_NICE = 5                   # how much the writing thread stands back behind training


class Job:
    """One rank's part of a save.

    Attributes:
        place, name: of the checkpoint that is to be.
        error: why this rank could not write or publish.
        given_up: another rank could not.
    """

    def __init__(self, store: Store, place: Place, part: str, rank: int, manifest: Manifest,
                 files: Sequence[TensorFile], keep: int | None, name: str | None = None) -> None:
        self.place = place
        self.name = name or place.name
        self.error: Exception | None = None
        self.given_up = False
        self._store, self._part, self._rank = store, part, rank
        self._manifest, self._files, self._keep = manifest, files, keep
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        self._folder = store.open(part)
        try:
            write_file(self._folder, self._mark(rank, "writing"), [])
        except BaseException:
            os.close(self._folder)
            raise

    def start(self) -> None:
        """Write in a thread."""
        self._thread = threading.Thread(target=self._beside, name="distgrad-checkpoint", daemon=True)
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread, if there is one; whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def drop(self) -> None:
        """Do not even begin."""
        os.close(self._folder)

    def leave(self) -> None:
        """Do not wait for other ranks any more."""
        self._left.set()

    def _beside(self) -> None:
        if sys.platform == "linux":  # where each thread has a priority of its own
            with suppress(OSError):
                here = threading.get_native_id()
                os.setpriority(os.PRIO_PROCESS, here, os.getpriority(os.PRIO_PROCESS, here) + _NICE)
        self.run()

    def run(self) -> None:
        """Write, and return when the checkpoint is there or given up; nothing is raised."""
        try:
            try:
                self._write()
                if self._rank == 0:
                    self._publish()
                else:
                    self._follow()
            except Exception as error:
                self.error = error
                with suppress(OSError):
                    os.unlink(self._mark(self._rank, "writing"), dir_fd=self._folder)
            if self._rank == 0 and (self.error or self.given_up):
                self._store.give_up(self._part)
        finally:
            self._files = ()
            os.close(self._folder)

    def _write(self) -> None:
        records = {file.name: file.write(self._folder) for file in self._files}
        mark = self._mark(self._rank, "writing")
        handle = os.open(mark, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        with open(handle, "wb") as opened:
            opened.write(json.dumps(records).encode())
        os.rename(mark, self._mark(self._rank, "done"), src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _publish(self) -> None:
        """On rank 0, when all have written: the manifest, the name, and the end of the oldest checkpoints."""
        records: dict[str, Any] = {}
        for rank in range(self._manifest.ranks):
            if not self._wait_for(rank):
                self.given_up = True
                return
            done = self._mark(rank, "done")
            records.update({name: tuple(found) for name, found in
                            json.loads(read_whole(self._folder, done, LIMIT)).items()})
            os.unlink(done, dir_fd=self._folder)
        write_file(self._folder, MANIFEST, [replace(self._manifest, files=records).to_bytes()])
        flush_folder(self._folder)
        self._store.publish(self._part, self.name)
        if self._keep is not None:
            with suppress(OSError):  # the checkpoint is there; what is too old goes the next time
                self._store.rotate(self._keep)

    def _wait_for(self, rank: int) -> bool:
        """Until a rank has written all of its files; False if it cannot."""
        pause = _SHORT
        while not self._there(rank, "done"):
            if not self._there(rank, "writing") and not self._there(rank, "done"):  # it may have changed in between
                return False
            if self._left.wait(pause):
                return False
            pause = min(_LONG, pause * 1.5)
        return True

    def _follow(self) -> None:
        """On the others: until rank 0 has published or given up."""
        pause = _SHORT
        while self._store.has(self._part):
            if self._left.wait(pause):
                break
            pause = min(_LONG, pause * 1.5)
        if not self._store.has(self.name):
            self.given_up = True

    def _there(self, rank: int, what: str) -> bool:
        try:
            os.stat(self._mark(rank, what), dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def _mark(rank: int, what: str) -> str:
        return f"rank-{rank:05d}.{what}"
