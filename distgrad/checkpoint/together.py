"""The steps of saving and loading that all ranks take together; `checkpointer` says when.

Each of them ends alike on all ranks: with the same result, or with the same exception.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ..comm import Communicator
from ..errors import CheckpointError, rank_prefix
from .agree import agreed, describe, is_of_disk, understand
from .loading import give_back
from .manifest import Manifest
from .store import Place, Store
from .verify import verified
from .writing import Job

__all__ = ["Restored", "begin", "finish", "open_store", "restore", "say"]

T = TypeVar("T")


@dataclass(frozen=True)
class Restored:
    """What was loaded.

    Attributes:
        step: of the checkpoint.
        path: of its folder.
        extra: the values that were saved with it.
        skipped: newer checkpoints that were damaged, and what is wrong with them.
    """

    step: int
    path: str
    extra: dict[str, Any]
    skipped: tuple[str, ...] = field(default=(), repr=False)


def say(text: str) -> None:
    sys.stderr.write(f"distgrad: {text}\n")
    sys.stderr.flush()


def open_store(comm: Communicator, folder: str) -> Store:
    """The folder, which rank 0 makes and locks, on all ranks."""
    def first() -> Store | None:
        if comm.rank:
            return None
        store = Store(folder, create=True)
        try:
            store.lock()
            store.sweep()
        except BaseException:
            store.close()
            raise
        return store

    made = agreed(comm, "open the folder of checkpoints", first)
    try:
        return agreed(comm, "open the folder of checkpoints",
                      lambda: made or _seen(comm, folder, lambda: Store(folder)))
    except BaseException:
        if made is not None:
            made.close()
        raise


def _seen(comm: Communicator, folder: str, action: Callable[[], T]) -> T:
    """The result of an action that finds what rank 0 has just made."""
    try:
        return action()
    except FileNotFoundError:
        raise CheckpointError(f"{rank_prefix()}{folder}: what rank 0 has made there is not seen by rank {comm.rank}: "
                              "take a folder on a file system that all ranks share") from None


def begin(comm: Communicator, store: Store, step: int, manifest: Manifest, files: Any, keep: int | None,
           name: str | None = None) -> Job:
    """One rank's job, when all ranks have left their mark in the new folder. Collective."""
    def make() -> bytes:
        if comm.rank:
            return b""
        if name is None:  # the folder is locked: nobody else writes there
            store.sweep()
        place, part = store.begin(step)
        return json.dumps([place.serial, part]).encode()

    told = agreed(comm, "save", make)
    serial, part = json.loads(comm.broadcast_bytes(told))
    jobs: list[Job] = []
    try:
        agreed(comm, "save",
               lambda: jobs.append(_seen(comm, store.path, lambda: Job(
                   store, Place(serial, step), part, comm.rank, manifest, files, keep, name))))
    except BaseException:
        for job in jobs:
            job.drop()
        if comm.rank == 0:
            store.remove(part)
        raise
    return jobs[0]


def finish(comm: Communicator, job: Job) -> None:
    """Wait for this rank's job, and learn how the others' have ended. Collective.

    Raises:
        OSError, ...: what failed on any rank, on all of them.
        CheckpointError: the folder in which it was written has gone.
    """
    job.join()
    told = comm.allgather_bytes(describe(job.error))
    given_up = comm.allgather_bytes(b"1" if job.given_up else b"")
    failures = [(rank, text) for rank, text in enumerate(told) if text]
    if failures:  # what is not the disk's fault first
        rank, text = min(failures, key=lambda failure: is_of_disk(failure[1]))
        raise job.error if job.error is not None and rank == comm.rank else understand(text, rank, "save")
    if any(given_up):
        raise CheckpointError(f"{rank_prefix()}{job.name} was not published: its folder is gone")


def restore(comm: Communicator, store: Store, state: Mapping[str, Any], step: int | None,
             name: str | None = None) -> Restored:
    """Load the newest checkpoint that is right, or the one of this name."""
    skipped: dict[str, str] = {}
    while candidates := _candidates(comm, store, step, name, skipped):
        for candidate, promised in candidates:
            path = os.path.join(store.path, candidate)
            found = _try(comm, store, candidate, promised, state)
            if isinstance(found, Restored):
                return replace(found, skipped=tuple(skipped.values()))
            skipped[candidate] = f"{path}: {found}"
            if not _is_gone(comm, store, candidate):
                store.damaged.add(candidate)
                if comm.rank == 0:
                    say(f"skipped the checkpoint {path}: {found}")
    if skipped:
        raise CheckpointError("\n  ".join([f"{rank_prefix()}no checkpoint in {store.path} is right:",
                                           *skipped.values()]))
    what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    raise FileNotFoundError(2, what, store.path)


def _try(comm: Communicator, store: Store, name: str, step: int | None, state: Mapping[str, Any]) -> Restored | str:
    """Load one checkpoint, or say what is wrong with it.

    Raises:
        CheckpointError: it is right, and does not fit.
    """
    path = os.path.join(store.path, name)
    folders: list[int] = []
    try:
        agreed(comm, "open it", lambda: folders.append(store.open(name)))
        manifest = verified(comm, folders[0], step)
    except (CheckpointError, OSError) as error:
        manifest = str(error)
    try:
        if isinstance(manifest, str):
            return manifest
        extra = give_back(comm, folders[0], manifest, state, path)
        return Restored(manifest.step, path, extra)
    except CheckpointError as error:
        if _is_gone(comm, store, name):  # before all of its files were open, and anything was changed
            return str(error)
        raise
    finally:
        for folder in folders:
            os.close(folder)


def _is_gone(comm: Communicator, store: Store, name: str) -> bool:
    """Whether a job that writes there has removed a checkpoint in the meantime, as rank 0 sees it."""
    gone = comm.rank == 0 and not store.has(name)
    return comm.broadcast_bytes(b"1" if gone else b"") == b"1"


def _candidates(comm: Communicator, store: Store, step: int | None, name: str | None,
                tried: Mapping[str, str]) -> list[tuple[str, int | None]]:
    """Names of checkpoints that were not tried yet, and their steps, as rank 0 sees them; the newest first.

    To be asked again when none was right: a job may be writing new ones and removing old ones.
    """
    def find() -> list[tuple[str, int | None]]:
        if comm.rank:
            return []
        found: list[tuple[str, int | None]] = [(place.name, place.step) for place in store.places()
                                               if step in (None, place.step)]
        return [each for each in (found if name is None else [(name, None)]) if each[0] not in tried]

    found = agreed(comm, "load", find)
    return [(each, promised) for each, promised in json.loads(comm.broadcast_bytes(json.dumps(found).encode()))]
