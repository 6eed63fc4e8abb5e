"""Is a checkpoint what was saved? Manifest, sizes and hashes, looked at by all ranks together.

The files are divided among the ranks, so that hashing takes as long as one share. Nothing of a checkpoint is used
before all of it was found right.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

from ..comm import Communicator
from ..errors import CheckpointError
from .files import hashed, open_regular, read_whole
from .manifest import LIMIT, MANIFEST, Manifest

__all__ = ["verified"]

_ROUND = 5.0  # seconds that ranks hash between two words: nobody waits long enough to think another one dead


def verified(comm: Communicator, folder: int, step: int | None) -> Manifest | str:
    """The manifest of the checkpoint in the open folder, or what is wrong with it; alike on all ranks. Collective.

    Args:
        step: which one the folder's name promises, if it does.
    """
    manifest = _manifest(comm, folder, step)
    if isinstance(manifest, str):
        return manifest
    problem = _first_wrong(comm, _check(folder, manifest, _mine(manifest, comm.rank, comm.size)))
    return problem or manifest


def _manifest(comm: Communicator, folder: int, step: int | None) -> Manifest | str:
    """The manifest, which rank 0 reads for all, or what is wrong with it."""
    told = b""
    if comm.rank == 0:
        try:
            data = read_whole(folder, MANIFEST, LIMIT)
            found = Manifest.from_bytes(data)
            if step is not None and found.step != step:
                raise CheckpointError(f"{MANIFEST} is that of step {found.step}: the folder was swapped or renamed")
            told = b"+" + data
        except (CheckpointError, OSError) as error:
            told = b"-" + str(error).encode()
    told = comm.broadcast_bytes(told)
    return Manifest.from_bytes(told[1:]) if told[:1] == b"+" else told[1:].decode()


def _mine(manifest: Manifest, rank: int, ranks: int) -> list[str]:
    """The files that this rank looks at: the largest first, each to the rank that has least so far."""
    load, mine = [0] * ranks, []
    for name, (size, _) in sorted(manifest.files.items(), key=lambda item: (-item[1][0], item[0])):
        chosen = load.index(min(load))
        load[chosen] += size + 1
        if chosen == rank:
            mine.append(name)
    return mine


def _check(folder: int, manifest: Manifest, names: list[str]) -> Iterator[None]:
    """Compare sizes and hashes, a piece at a time.

    Raises:
        CheckpointError, OSError: the first file that is wrong.
    """
    for name in names:
        size, digest = manifest.files[name]
        with open_regular(folder, name) as handle:
            if (found := os.fstat(handle).st_size) != size:
                raise CheckpointError(f"{name} has {found:,} bytes, and was saved with {size:,}")
            found_digest = ""
            for found_digest in hashed(handle):  # noqa: B007 - the last one counts
                yield
            if found_digest != digest:
                raise CheckpointError(f"{name} is damaged, or that of another checkpoint: its SHA-256 is not the one "
                                      "that was saved")


def _first_wrong(comm: Communicator, work: Iterator[None]) -> str:
    """Let all ranks look at what is theirs; the first problem in rank order, or none."""
    while True:
        problem, end = "", time.monotonic() + _ROUND
        more = True
        try:
            while more and time.monotonic() < end:
                more = next(work, work) is not work
        except (CheckpointError, OSError) as error:
            problem, more = str(error), False
        everybody = [json.loads(told) for told in comm.allgather_bytes(json.dumps([problem, more]).encode())]
        for told, _ in everybody:
            if told:
                return str(told)
        if not any(going_on for _, going_on in everybody):
            return ""
