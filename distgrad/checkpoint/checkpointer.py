"""Checkpoints of a whole training state: saved by all ranks together, and given back from the newest that is right.

    checkpoints = Checkpointer("runs/a", keep=3)
    state = {"model": model, "optimizer": optimizer, "sampler": sampler}
    found = checkpoints.resume(state)
    for step in range(found.step if found else 0, steps):
        ...
        if step % 100 == 0:
            checkpoints.save(step, state, asynchronous=True)
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from ..comm import Communicator
from ..config import config
from ..distributed.world import as_communicator
from ..errors import CheckpointError, rank_prefix
from .agree import agreed
from .manifest import MANIFEST, Manifest
from .parts import collect
from .store import Place, Store
from .together import Restored, begin, finish, open_store, restore, say
from .writing import Job

__all__ = ["Checkpointer", "load", "save"]

PathLike = str | os.PathLike[str]


class Checkpointer:
    """A folder of checkpoints, written by one job at a time. Methods are called by all ranks together.

    Args:
        folder: on a file system that all ranks see; made if it is not there, for its owner alone.
        keep: how many checkpoints stay; each new one that is complete removes the oldest. None keeps all.
        comm: of the ranks that save; None for the world.
        on_error: what happens when the disk is full or fails: 'raise', or 'warn', which says it on standard error and
            in `failed_saves` and lets training go on. Older checkpoints are whole either way.

    Attributes:
        failed_saves: how many saves were given up for such reasons.

    Raises:
        CheckpointError: another job writes there.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: PathLike, keep: int | None = 3, *, comm: Any = None, on_error: str = "raise") -> None:
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
            raise ValueError(f"keep is a number of checkpoints, at least 1, or None for all, got {keep!r}")
        if on_error not in ("raise", "warn"):
            raise ValueError(f"on_error is 'raise' or 'warn', got {on_error!r}")
        self.comm: Communicator = as_communicator(comm)
        self.keep = keep
        self.on_error = on_error
        self.failed_saves = 0
        self._job: Job | None = None
        self._rooms: dict[str, np.ndarray] = {}  # where states are copied to, by the name of the file
        self._store: Store | None = open_store(self.comm, os.fspath(folder))
        self._forget = self.comm.at_close(self._end)
        self._at_exit = _join_at_exit(self)

    def save(self, step: int, state: Mapping[str, Any], extra: Mapping[str, Any] | None = None, *,
             asynchronous: bool = False) -> bool:
        """Save a training state, between an optimizer's step and the next backward.

        Random streams are always part of it. Between `zero_grad` and a step, gradients are not.

        Args:
            step: how far training has come.
            state: names to models, optimizers, schedules, samplers and whatever else has `state_dict()` and
                `load_state_dict()`; a `Generator`, or `PerRank(...)`, is each rank's own.
            extra: names to numbers, strings, lists, dictionaries, tensors and arrays, the same on all ranks.
            asynchronous: copy the state, and write it while training goes on. What fails is raised by the next
                `save`, `wait` or `close`.

        Returns:
            Whether it is there, or being written; False only where `on_error='warn'`.

        Raises:
            OSError: it could not be written, on whatever rank; nothing was changed.
            TypeError, ValueError: something that cannot be saved, or that differs between ranks.
        """
        if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or not 0 <= step < 1 << 62:
            raise ValueError(f"a step is a whole number of at least 0, got {step!r}")
        store = self._opened()
        self.wait()
        share = collect(self.comm, state, extra or {})
        manifest = Manifest(int(step), self.comm.size, share.parts, {})
        if asynchronous:
            self._rooms = {file.name: file.copy(self._rooms.get(file.name)) for file in share.files}
        try:
            self._job = begin(self.comm, store, int(step), manifest, share.files, self.keep)
        except OSError as error:
            if self.on_error == "raise":
                raise
            return self._warn(error, int(step))
        if asynchronous:
            self._job.start()
            return True
        self._job.run()
        return self.wait()

    def wait(self) -> bool:
        """Return when the last save is complete; whether it is there.

        Raises:
            OSError, CheckpointError: it was given up; the same on all ranks.
        """
        job, self._job = self._job, None
        if job is None:
            return True
        try:
            finish(self.comm, job)
        except OSError as error:
            if self.on_error == "raise":
                raise
            return self._warn(error, job.place.step)
        return True

    def _warn(self, error: OSError, step: int) -> bool:
        self.failed_saves += 1
        if self.comm.rank == 0:
            say(f"the checkpoint of step {step} was given up, and training goes on: {error}")
        return False

    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder, the newest first, as this rank sees them."""
        return [place.step for place in self._opened().places()]

    def latest(self) -> str | None:
        """The path of the newest checkpoint, as this rank sees it; whether it is damaged is not looked at."""
        store = self._opened()
        places = store.places()
        return os.path.join(store.path, places[0].name) if places else None

    def restore(self, state: Mapping[str, Any], step: int | None = None) -> Restored:
        """Load the newest checkpoint that is right; those that are damaged are named on standard error.

        Args:
            state: as for `save`; names that are left out stay as they are. The number of ranks may be another one.
            step: only a checkpoint of this step.

        Raises:
            FileNotFoundError: there is none.
            CheckpointError: all are damaged, or the newest that is not does not fit; nothing was changed.
        """
        store = self._opened()
        self.wait()
        return restore(self.comm, store, state, step)

    def resume(self, state: Mapping[str, Any], mode: str = "auto") -> Restored | None:
        """Load the newest checkpoint that is right, if there is any: what a script does when it starts.

        Args:
            mode: 'auto'; 'never' loads nothing; 'must' raises where there is none.

        Returns:
            What was loaded, with the step from which to go on; None if training begins anew.

        Raises:
            CheckpointError: there are checkpoints and all are damaged, or the newest does not fit.
        """
        if mode not in ("auto", "never", "must"):
            raise ValueError(f"resume takes 'auto', 'never' or 'must', got {mode!r}")
        if mode == "never":
            return None
        try:
            return self.restore(state)
        except FileNotFoundError:
            if mode == "must":
                raise
            return None

    def close(self) -> None:
        """Wait for the last save, and let other jobs write there."""
        try:
            if self._store is not None:
                self.wait()
        finally:
            self._end()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._end()  # the other ranks may not be here

    def _opened(self) -> Store:
        if self._store is None:
            raise CheckpointError(f"{rank_prefix()}this Checkpointer was closed")
        return self._store

    def _end(self) -> None:
        """End without the others: finish what is being written if they finish it too, and release the folder."""
        job, self._job = self._job, None
        if job is not None and not job.join(config.hard_timeout):
            job.leave()
            job.join()
        if self._store is not None:
            self._store.close()
            self._store = None
            self._forget()
            atexit.unregister(self._at_exit)


def save(path: PathLike, state: Mapping[str, Any], step: int = 0, extra: Mapping[str, Any] | None = None, *,
         comm: Any = None) -> None:
    """Save a training state as one checkpoint, the new folder `path`. Collective.

    Arguments and exceptions are those of `Checkpointer.save`.

    Raises:
        FileExistsError: there is something at `path`.
    """
    communicator = as_communicator(comm)
    whole = os.path.abspath(os.fspath(path))
    parent, name = os.path.split(whole)

    def check() -> Store:
        if os.path.lexists(whole):
            raise FileExistsError(17, "a checkpoint is a new folder, and there is something already", whole)
        return Store(parent)

    store = agreed(communicator, "save", check)
    try:
        share = collect(communicator, state, extra or {})
        manifest = Manifest(step, communicator.size, share.parts, {})
        job = begin(communicator, store, step, manifest, share.files, None, name)
        job.run()
        finish(communicator, job)
    finally:
        store.close()


def load(path: PathLike, state: Mapping[str, Any], step: int | None = None, *, comm: Any = None) -> Restored:
    """Load a training state from a checkpoint, or from the newest one that is right in a folder of them. Collective.

    Nothing is locked, so a folder may be read while a job writes there. Arguments and exceptions are those of
    `Checkpointer.restore`.
    """
    communicator = as_communicator(comm)
    whole = os.path.abspath(os.fspath(path))
    alone = Place.of(os.path.basename(whole)) is not None or os.path.lexists(os.path.join(whole, MANIFEST))
    single = communicator.broadcast_bytes(b"1" if alone else b"") == b"1"
    store = agreed(communicator, "load", lambda: Store(os.path.dirname(whole) if single else whole))
    try:
        return restore(communicator, store, state, step, os.path.basename(whole) if single else None)
    finally:
        store.close()


# -- the end of the interpreter

def _join_at_exit(checkpointer: Checkpointer) -> Any:
    """Have a save that is being written finished before the interpreter ends."""
    found = weakref.ref(checkpointer)

    def end() -> None:
        alive = found()
        if alive is not None:
            alive._end()

    atexit.register(end)
    return end
