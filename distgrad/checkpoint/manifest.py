"""The manifest: which files a checkpoint has, with sizes and hashes, and every state but its arrays.

It is a JSON file whose content has a hash of its own, so that a flipped digit in a learning rate is found too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from .files import check_name
from .tensorfile import strict_json

__all__ = ["LIMIT", "MANIFEST", "Manifest", "Part"]

MANIFEST = "manifest.json"
LIMIT = 1 << 25  # bytes; JSON takes many times its length once it is read
_FORMAT = "distgrad.checkpoint"
_VERSION = 1
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Part:
    """One thing that was saved.

    Attributes:
        states: its encoded state; one of each rank where `per_rank`, otherwise one.
        files: with the arrays of a state that all ranks have.
    """

    per_rank: bool
    states: list[Any]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What stands in a manifest.

    Attributes:
        step: as it was given to `save`.
        ranks: how many there were.
        parts: by name.
        files: name -> size in bytes and SHA-256.
    """

    step: int
    ranks: int
    parts: dict[str, Part]
    files: dict[str, tuple[int, str]]

    def to_bytes(self) -> bytes:
        """As a file."""
        parts = {name: {"per_rank": part.per_rank, "states": part.states, "files": list(part.files)}
                 for name, part in self.parts.items()}
        content = {"step": self.step, "ranks": self.ranks, "files": {n: list(f) for n, f in self.files.items()},
                   "parts": parts}
        return json.dumps({"format": _FORMAT, "version": _VERSION, "sha256": _digest(content), "content": content},
                          allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """From a file's content.

        Raises:
            CheckpointError: it is damaged, or no manifest, or of a version that is not known here.
        """
        found = strict_json(data, MANIFEST)
        match found:
            case {"format": str(kind), "version": int(version)} if kind == _FORMAT and type(version) is int:
                if version != _VERSION:
                    raise CheckpointError(f"{MANIFEST} has version {version} of the format, and this distgrad reads "
                                          f"version {_VERSION}")
            case _:
                raise CheckpointError(f"{MANIFEST} is not that of a distgrad checkpoint")
        content = found.get("content")
        try:
            right = _digest(content) == found.get("sha256")
        except RecursionError:
            right = False
        if not right:
            raise CheckpointError(f"{MANIFEST} is damaged: its content is not what was saved")
        match content:
            case {"step": int(step), "ranks": int(ranks), "files": dict(files), "parts": dict(parts)} if \
                    type(step) is int and type(ranks) is int and 0 <= step < 1 << 62 and 0 < ranks < 1 << 31:
                return cls(step, ranks, {name: _part(value, files, ranks) for name, value in parts.items()},
                           {check_name(name): _file(name, value) for name, value in files.items()})
        raise CheckpointError(f"{MANIFEST} is not that of a distgrad checkpoint")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _part(value: Any, files: dict[str, Any], ranks: int) -> Part:
    match value:
        case {"per_rank": bool(per_rank), "states": [_, *_] as states, "files": [*own]} if \
                len(states) == (ranks if per_rank else 1) and all(isinstance(n, str) and n in files for n in own):
            return Part(per_rank, states, tuple(own))
    raise CheckpointError(f"{MANIFEST} has a part that is none")


def _file(name: str, value: Any) -> tuple[int, str]:
    match value:
        case [int(size), str(digest)] if type(size) is int and 0 <= size < 1 << 62 and len(digest) == 64 and \
                set(digest) <= _HEX:
            return size, digest
    raise CheckpointError(f"{MANIFEST} says of {name} neither size nor hash")
