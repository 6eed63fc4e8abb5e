"""What is saved: the states of models, optimizers, schedules, samplers and random streams, as each rank has them.

    collect on every rank -> compare what must be the same on all -> divide the arrays among the ranks' files

A state is the same on all ranks, and written once; or in pieces with its owners (ZeroRedundancyOptimizer); or each
rank's own (random streams, local buffers, what is wrapped in PerRank).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backend import of
from ..backend.random import Generator, default_generator
from ..comm import Communicator
from ..distributed import DataParallel, ZeroRedundancyOptimizer
from .agree import agreed
from .manifest import Part
from .tensorfile import TensorFile, to_storable
from .tree import encode

__all__ = ["BUFFERS", "EXTRA", "RANDOM", "PerRank", "Share", "collect", "rank_file"]

EXTRA = "extra"
RANDOM = "random"
BUFFERS = ".buffers"  # after a model's name: the buffers that each rank has of its own
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_SMALL = 1 << 23  # bytes; less is not worth to be divided among ranks


class PerRank:
    """Says that a state is each rank's own, and has to be saved and given back rank by rank.

    It is given back to as many ranks as have saved it, and to no other number.
    """

    def __init__(self, stateful: Any) -> None:
        self.stateful = stateful


@dataclass
class _Collected:
    """One state on this rank: JSON, the arrays that all ranks have alike, and those of this rank alone."""

    per_rank: bool
    state: Any
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    own: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Share:
    """What one rank is to write, and what rank 0 is to say of all of it."""

    files: list[TensorFile]
    parts: dict[str, Part]


def rank_file(rank: int) -> str:
    """The file with arrays that one rank alone has."""
    return f"rank-{rank:05d}.safetensors"


def collect(comm: Communicator, state: Mapping[str, Any], extra: Mapping[str, Any]) -> Share:
    """Ask all of `state` for what it is now, and divide the writing. Collective.

    Raises:
        TypeError: something that has no state, or a state with something that cannot be saved.
        ValueError: a name that cannot be, or a state that differs between ranks.
    """
    found = agreed(comm, "save", lambda: _ask(state, extra))
    texts = {name: json.dumps(part.state) for name, part in found.items()}
    mine = {name: [part.per_rank, texts[name] if part.per_rank else _digest(texts[name])]
            for name, part in found.items()}
    everybody = [json.loads(told) for told in comm.allgather_bytes(json.dumps(mine).encode())]
    _require_same(everybody)
    files, names = _divide(found, comm.rank, comm.size)
    parts = {}
    for name, part in found.items():
        states = [json.loads(told[name][1]) for told in everybody] if part.per_rank else [part.state]
        parts[name] = Part(part.per_rank, states, names.get(name, ()))
    return Share(files, parts)


def _ask(state: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, _Collected]:
    if not isinstance(state, Mapping):
        raise TypeError(f"a state is a dictionary of names to models, optimizers, ..., got {type(state).__name__}")
    if not isinstance(extra, Mapping) or not all(isinstance(key, str) for key in extra):
        raise TypeError("extra is a dictionary of names to values")
    found: dict[str, _Collected] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (EXTRA, RANDOM):
            raise ValueError(f"{name!r} cannot name a part of a checkpoint: letters, digits and underscores, a letter "
                             f"first, and neither {EXTRA!r} nor {RANDOM!r}")
        _ask_one(name, value, found)
    found[RANDOM] = _own(RANDOM, default_generator().get_state())
    values = found[EXTRA] = _Collected(False, None)
    values.state = encode(extra, EXTRA, values.arrays)
    return found


def _ask_one(name: str, value: Any, found: dict[str, _Collected]) -> None:
    if isinstance(value, Generator):
        found[name] = _own(name, value.get_state())
        return
    stateful = value.stateful if isinstance(value, PerRank) else value
    if not hasattr(stateful, "state_dict") or not hasattr(stateful, "load_state_dict"):
        raise TypeError(f"{name!r} has no state_dict() and load_state_dict(): {type(stateful).__name__}; numbers, "
                        "strings and arrays go into `extra`")
    if isinstance(value, PerRank):
        found[name] = _own(name, stateful.state_dict())
        return
    part = found[name] = _Collected(False, None)
    if isinstance(value, ZeroRedundancyOptimizer):
        packed, own = value.shard_dict()
        part.state = encode(packed, name, part.arrays)
        for key, array in own.items():
            storable = to_storable(of(array).to_host(array))
            if storable is None:
                raise TypeError(f"{name}: {key!r} has elements of {array.dtype}, which safetensors files do not have")
            part.own[f"{name}/{key}"] = storable
        return
    state = value.state_dict()
    if isinstance(value, DataParallel) and value.buffers_are_local:
        names = {buffer for buffer, _ in value.module.named_buffers()}
        found[name + BUFFERS] = _own(name + BUFFERS, {key: state[key] for key in state if key in names})
        state = {key: tensor for key, tensor in state.items() if key not in names}
    part.state = encode(state, name, part.arrays)


def _own(name: str, state: Any) -> _Collected:
    """A state that this rank alone has."""
    arrays: dict[str, np.ndarray] = {}
    encoded = encode(state, name, arrays)
    return _Collected(True, encoded, own={f"{name}/{key}": array for key, array in arrays.items()})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _require_same(everybody: list[dict[str, Any]]) -> None:
    first = everybody[0]
    for rank, told in enumerate(everybody):
        if told.keys() != first.keys():
            raise ValueError(f"rank 0 saves {', '.join(first)}; rank {rank} saves {', '.join(told)}")
        for name, (per_rank, digest) in told.items():
            if per_rank != first[name][0] or (not per_rank and digest != first[name][1]):
                raise ValueError(f"the state of {name!r} differs between rank 0 and rank {rank}; PerRank({name}) saves "
                                 "each rank's own")


def _divide(found: Mapping[str, _Collected], rank: int, ranks: int) -> tuple[list[TensorFile],
                                                                             dict[str, tuple[str, ...]]]:
    """This rank's files, and for each part the files with the arrays that all ranks have; the same on all ranks."""
    files, names = [], {}
    load = [0] * ranks
    total = sum(array.nbytes for part in found.values() for array in part.arrays.values())
    for name, part in found.items():
        writers: list[dict[str, np.ndarray]] = [{} for _ in range(ranks)]
        for key, array in sorted(part.arrays.items(), key=lambda item: (-item[1].nbytes, item[0])):
            writer = load.index(min(load)) if total >= _SMALL else 0
            writers[writer][key] = array
            load[writer] += array.nbytes
        used = [number for number, arrays in enumerate(writers) if arrays]
        each = [name] if len(used) == 1 else [f"{name}-{i + 1:05d}-of-{len(used):05d}" for i in range(len(used))]
        if used:
            names[name] = tuple(f"{text}.safetensors" for text in each)
        files += [TensorFile(names[name][i], writers[writer]) for i, writer in enumerate(used) if writer == rank]
    own = {key: array for part in found.values() for key, array in part.own.items()}
    if own:
        files.append(TensorFile(rank_file(rank), own))
    return files, names
