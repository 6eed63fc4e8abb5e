"""A verified checkpoint back into models, optimizers, schedules, samplers and random streams.

Every rank reads what it needs, one array at a time. Names, shapes and dtypes are compared on all ranks before
anything is changed on any of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from ..backend.random import Generator, default_generator
from ..comm import Communicator
from ..distributed import DataParallel, ZeroRedundancyOptimizer
from ..errors import CheckpointError, WeightsFileError
from ..nn import Module
from ..optim import Optimizer
from .agree import agreed
from .files import open_regular
from .manifest import Manifest, Part
from .parts import BUFFERS, EXTRA, RANDOM, PerRank, rank_file
from .tensorfile import DTYPES, Entry, TensorReader
from .tree import LazyTensor, decode, loaded
from .weights import require_fit

__all__ = ["give_back"]

# For each dtype of an array in pieces that of its elements in a file.
_SHARDED = {np.dtype(kind).name: np.dtype(kind).newbyteorder("=") for kind in DTYPES.values()}
_SHARDED["complex128"] = np.dtype("float64")


class _Files:
    """The open files of a checkpoint, opened when first asked for."""

    def __init__(self, folder: int, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._open = ExitStack()
        self._readers: dict[str, TensorReader] = {}

    def close(self) -> None:
        self._open.close()

    def reader(self, name: str) -> TensorReader:
        if name not in self._readers:
            if name not in self._manifest.files:
                raise CheckpointError(f"its manifest does not name the file {name}")
            handle = self._open.enter_context(open_regular(self._folder, name))
            self._readers[name] = TensorReader(handle, name)
        return self._readers[name]

    def state(self, name: str, part: Part, rank: int) -> Any:
        """A part's state, of this rank where each had its own, with a LazyTensor for each array."""
        files, prefix = (part.files, "") if not part.per_rank else ((rank_file(rank),), f"{name}/")

        def tensor(key: str, pairs: bool) -> LazyTensor:
            key = prefix + key
            reader = next((r for r in map(self.reader, files) if key in r.entries), None)
            if reader is None or (pairs and not _are_pairs(reader.entries[key])):
                raise CheckpointError(f"{name}: its files have no array {key[:100]!r}")
            entry = reader.entries[key]
            if pairs:
                return LazyTensor(entry.shape[:-1], np.complex128, lambda: _paired(reader.read(key)))
            return LazyTensor(entry.shape, entry.dtype.newbyteorder("="), lambda: reader.read(key))

        return decode(part.states[rank if part.per_rank else 0], tensor, lambda value: self._sharded(name, value))

    def _sharded(self, name: str, value: dict[str, Any]) -> LazyTensor:
        """An array in pieces, put together when it is asked for."""
        match value:
            case {"key": str(key), "dtype": str(code), "shape": [*shape], "order": [*order], "pieces": [*pieces]} if \
                    _are_counts(shape) and _are_counts(order) and sorted(order) == list(range(len(shape))) and \
                    code in _SHARDED and all(isinstance(p, list) and len(p) == 4 and _are_counts(p) for p in pieces):
                key = f"{name}/{key}"
            case _:
                raise CheckpointError(f"{name}: its state has an array in pieces that is none")
        size, at, found = math.prod(shape), 0, []
        width = 2 if code == "complex128" else 1  # numbers in the file for one element
        for rank, begin, end, where in sorted(pieces, key=lambda piece: piece[1]):
            reader = self.reader(rank_file(rank))
            entry = reader.entries.get(key)
            if entry is None or begin != at or not begin < end <= size or entry.dtype != _SHARDED[code] or \
                    (where + end - begin) * width > math.prod(entry.shape):
                raise CheckpointError(f"{name}: the pieces of an array are not in its files")
            found.append((reader, where * width, (where + end - begin) * width))
            at = end
        if at != size:
            raise CheckpointError(f"{name}: the pieces of an array do not cover it")

        def read() -> np.ndarray:
            lines = [reader.read_elements(key, begin, end) for reader, begin, end in found]
            line = np.concatenate([np.empty(0, _SHARDED[code]), *lines]).view(code)
            return line.reshape([shape[d] for d in order]).transpose(np.argsort(order))

        return LazyTensor(tuple(shape), code, read)


def _are_counts(values: list[Any]) -> bool:
    return all(type(n) is int and 0 <= n < 1 << 62 for n in values)


def _are_pairs(entry: Entry) -> bool:
    return entry.dtype == np.float64 and entry.shape[-1:] == (2,)


def _paired(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.complex128).reshape(array.shape[:-1])


def give_back(comm: Communicator, folder: int, manifest: Manifest, state: Mapping[str, Any], where: str) -> Any:
    """Load everything in `state` from the checkpoint in the open folder. Collective.

    Returns:
        What was saved as `extra`.

    Raises:
        CheckpointError: it has no such part, or a part does not fit; nothing was changed.
    """
    files = _Files(folder, manifest)
    try:
        found, extra = agreed(comm, "load", lambda: _prepare(files, manifest, state, comm, where))
        with _writable(state):
            for name, value in state.items():
                agreed(comm, "load", lambda: _load(value, found[name], comm.rank))  # noqa: B023 - called at once
                if name + BUFFERS in found:
                    agreed(comm, "load", lambda: _load_buffers(value, found[name + BUFFERS]))  # noqa: B023
        agreed(comm, "load", lambda: _load_random(default_generator(), manifest.parts[RANDOM], comm.rank))
        return extra
    finally:
        files.close()


@contextmanager
def _writable(state: Mapping[str, Any]) -> Iterator[None]:
    """While parameters are loaded, those of sharded optimizers may be written."""
    with ExitStack() as stack:
        for value in state.values():
            if isinstance(value, ZeroRedundancyOptimizer):
                stack.enter_context(value.writable())
        yield


def _prepare(files: _Files, manifest: Manifest, state: Mapping[str, Any], comm: Communicator,
             where: str) -> tuple[dict[str, Any], Any]:
    """All states that are asked for, their arrays unread, after a look at whether they fit."""
    try:
        return _prepared(files, manifest, state, comm, where)
    except (CheckpointError, WeightsFileError) as error:
        text = str(error)
        raise CheckpointError(text if where in text else f"{where}: {text}") from None


def _prepared(files: _Files, manifest: Manifest, state: Mapping[str, Any], comm: Communicator,
              where: str) -> tuple[dict[str, Any], Any]:
    found: dict[str, Any] = {}
    for name, value in state.items():
        part = manifest.parts.get(name)
        if part is None:
            had = ", ".join(n for n in manifest.parts if n not in (EXTRA, RANDOM) and not n.endswith(BUFFERS))
            raise CheckpointError(f"it has no {name!r}; it has {had or 'nothing'}")
        alone = isinstance(value, (PerRank, Generator))
        if alone != part.per_rank:
            raise CheckpointError(f"{name!r} was saved {'rank by rank' if part.per_rank else 'for all ranks'}, and is "
                                  f"to be loaded {'rank by rank' if alone else 'for all ranks'}")
        if isinstance(value, PerRank) and len(part.states) != comm.size:
            raise CheckpointError(f"{name!r} is each rank's own, was saved by {len(part.states)} ranks, and cannot be "
                                  f"given to {comm.size}")
        if isinstance(value, Generator):
            _check_random(part)
            found[name] = part
            continue
        found[name] = files.state(name, part, comm.rank)
        if name + BUFFERS in manifest.parts:
            own = manifest.parts[name + BUFFERS]
            found[name + BUFFERS] = files.state(name + BUFFERS, own, comm.rank % len(own.states))
        _require_fit(name, value, found[name], found.get(name + BUFFERS, {}), where)
    for name in (EXTRA, RANDOM):
        if name not in manifest.parts:
            raise CheckpointError(f"it has no {name!r}: it is incomplete")
    _check_random(manifest.parts[RANDOM])
    return found, loaded(files.state(EXTRA, manifest.parts[EXTRA], comm.rank))


def _require_fit(name: str, value: Any, state: Any, buffers: Any, where: str) -> None:
    """Raise CheckpointError or WeightsFileError where it can be told beforehand that a state cannot be loaded."""
    if isinstance(value, (Module, DataParallel)):
        if not all(isinstance(each, dict) and all(isinstance(tensor, LazyTensor) for tensor in each.values())
                   for each in (state, buffers)):
            raise CheckpointError(f"the state of {name!r} is none of a module")
        module = value.module if isinstance(value, DataParallel) else value
        require_fit(f"{where}: {name}", {**state, **buffers}, module, True)
    elif isinstance(value, (Optimizer, ZeroRedundancyOptimizer)):
        try:
            value.check_state_dict(state)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{name!r} does not fit: {error}") from None


def _load(value: Any, state: Any, rank: int) -> None:
    if isinstance(value, Generator):
        _load_random(value, state, rank)
        return
    target = value.stateful if isinstance(value, PerRank) else value
    if isinstance(target, DataParallel):
        target.module.load_state_dict(loaded(state), strict=False)  # names were compared; local buffers come later
    elif isinstance(target, ZeroRedundancyOptimizer):
        target.load_state_dict(state)  # it asks for one array at a time
    else:
        target.load_state_dict(loaded(state))


def _load_buffers(model: Any, state: Any) -> None:
    module = model.module if isinstance(model, DataParallel) else model
    module.load_state_dict(loaded(state), strict=False)


def _check_random(part: Part) -> None:
    for state in part.states:
        try:
            Generator(0).set_state(state)
        except RuntimeError as error:
            raise CheckpointError(f"the state of a random stream is none: {error}") from None


def _load_random(generator: Generator, part: Part, rank: int) -> None:
    """The stream that this rank had; for one that there was not, one of its own that follows from rank 0's."""
    if rank < len(part.states):
        generator.set_state(part.states[rank])
        return
    text = f"{part.states[0]} {rank}"
    generator.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))
