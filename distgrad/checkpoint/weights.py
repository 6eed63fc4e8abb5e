"""Weights as safetensors files: names and tensors, no code, readable by whatever reads safetensors.

A file is complete or not there: it is written beside its place, flushed to the disk and renamed.
Nothing is loaded into a model before all of it has been found right.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from .._tensor.creation import from_numpy
from ..backend import of
from ..distributed import DataParallel, world
from ..errors import WeightsFileError
from ..graph.base import TensorBase
from ..nn import Module
from .agree import describe, understand
from .files import flush_folder
from .tensorfile import DTYPES, HEADER_LIMIT

__all__ = ["load_metadata", "load_weights", "require_fit", "save_weights"]

PathLike = str | os.PathLike[str]

CHECKSUM = "distgrad.crc32"


def save_weights(model_or_state_dict: Any, path: PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and buffers to `path`, replacing what is there in one step.

    Under several ranks all call it; rank 0 writes, and all return when the file is complete. Whatever
    is refused or fails on rank 0 raises on every rank.

    Args:
        model_or_state_dict: a Module, a DataParallel (the names are its module's own), or a dictionary
            of names to tensors.
        metadata: strings to keep in the file, for `load_metadata`.

    Raises:
        TypeError: no model, a value that is no tensor, a dtype that files do not have, metadata that are
            not strings.
        OSError: the file cannot be written; what was there before is still there.
        ImportError: safetensors is not installed.
    """
    path = os.fspath(path)
    comm = model_or_state_dict.comm if isinstance(model_or_state_dict, DataParallel) else world()
    state = model_or_state_dict
    if isinstance(state, (DataParallel, Module)):
        state = state.state_dict()
    if comm.rank == 0:
        failure: Exception | None = None
        try:
            _replace(path, _encode(state, metadata))
        except Exception as error:
            failure = error
        comm.broadcast_bytes(describe(failure))
        if failure is not None:
            raise failure
    elif told := comm.broadcast_bytes(None):
        raise understand(told, 0, "save")


def load_weights(path: PathLike, model: Any = None, strict: bool = True) -> dict[str, Any]:
    """Read a weights file and, if a model is given, copy its tensors into it.

    Each rank reads the file for itself. bfloat16 tensors, which numpy does not have, become float32.

    Args:
        model: a Module or DataParallel whose names, shapes and dtypes the file must have.
        strict: False loads the names that both have, and leaves the others alone.

    Returns:
        A dictionary of names to tensors.

    Raises:
        OSError: the file is not there (FileNotFoundError) or cannot be read.
        WeightsFileError: it is empty, cut off, damaged, no safetensors file, or does not fit the model;
            names the file and the first tensor that is wrong. The model is unchanged.
        ImportError: safetensors is not installed.
    """
    if model is not None and not isinstance(model, (Module, DataParallel)):
        raise TypeError(f"load_weights loads into a Module or a DataParallel, got {type(model).__name__}")
    path = os.fspath(path)
    state = _decode(path, _read(path))
    if model is not None:
        module = model.module if isinstance(model, DataParallel) else model
        require_fit(path, state, module, strict)
        module.load_state_dict(state, strict=strict)
    return state


def load_metadata(path: PathLike) -> dict[str, str]:
    """The strings that were given to `save_weights` as `metadata`; reads only the file's header.

    Raises:
        OSError, WeightsFileError: as `load_weights`.
    """
    path = os.fspath(path)
    metadata = _metadata(path, _read(path, header_only=True))
    return {key: value for key, value in metadata.items() if key != CHECKSUM}


# -- between tensors and bytes

def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('weights files need the package safetensors: pip install "distgrad[io]"') from error
    return safetensors


def _encode(state: Any, metadata: Mapping[str, str] | None) -> bytes:
    """A state dict as the content of a file."""
    library = _library()
    if not isinstance(state, Mapping):
        raise TypeError(f"save_weights takes a model or a dictionary of names to tensors, got {type(state).__name__}")
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"save_weights: {name!r} cannot be the name of a tensor")
        if not isinstance(tensor, TensorBase):
            raise TypeError(f"save_weights: {name!r} is no tensor but a {type(tensor).__name__}")
        host = np.asarray(of(tensor.array).to_host(tensor.array), order="C")
        if host.dtype.newbyteorder("<") not in map(np.dtype, DTYPES.values()):
            raise TypeError(f"save_weights: {name!r} is {host.dtype}, which safetensors files do not have")
        arrays[name] = host
    texts = dict(metadata or {})
    for key, value in texts.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"save_weights: metadata are strings, got {key!r}: {value!r}")
        if key == CHECKSUM:
            raise ValueError(f"save_weights: the metadata name {CHECKSUM!r} is taken by the file's checksum")
    texts[CHECKSUM] = _checksum(arrays)
    try:
        return library.numpy.save(arrays, texts)
    except library.SafetensorError as error:  # an older one, which knows fewer dtypes
        raise TypeError(f"save_weights: safetensors {library.__version__} refuses: {error}") from None


def _decode(path: str, data: bytes) -> dict[str, Any]:
    """The tensors in a file's content."""
    library = _library()
    try:
        entries = library.deserialize(data)
    except library.SafetensorError as error:
        raise WeightsFileError(f"{path}: damaged, or no safetensors file: {error}") from None
    arrays = {name: _array(path, name, entry) for name, entry in entries}
    expected = _metadata(path, data).get(CHECKSUM)
    if expected is not None and expected != _checksum(arrays):
        raise WeightsFileError(f"{path}: damaged: its tensors are not those that were saved (checksum {expected}, "
                               f"found {_checksum(arrays)})")
    return {name: from_numpy(array) for name, array in arrays.items()}


def _array(path: str, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    kind, shape = entry["dtype"], entry["shape"]
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(entry["data"], "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if kind not in DTYPES:
        raise WeightsFileError(f"{path}: tensor {name!r} is {kind}, which numpy does not have; save it as F32")
    array = np.frombuffer(entry["data"], DTYPES[kind]).reshape(shape)
    return array.astype(array.dtype.newbyteorder("=")) if sys.byteorder == "big" else array.copy()


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """CRC-32 over names, dtypes, shapes and values, in the order of the names; the format itself has none."""
    found = 0
    for name in sorted(arrays):
        array = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        found = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), found)
        found = zlib.crc32(array.reshape(-1).view(np.uint8).data, found)
    return f"{found:08x}"


def _metadata(path: str, data: bytes) -> dict[str, str]:
    """The strings in a header. It is small, and safetensors gives them only for files, not for bytes."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:8 + length])
        found = header.get("__metadata__") or {}
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise WeightsFileError(f"{path}: damaged, or no safetensors file: its header is not what it should be "
                               f"({error})") from None


def require_fit(path: str, state: Mapping[str, Any], module: Module, strict: bool) -> None:
    """Raise WeightsFileError unless the file has what the module needs; says the first difference and how many."""
    own = module.state_dict()
    wrong = []
    for name, tensor in own.items():
        if name not in state:
            if strict:
                wrong.append(f"it has no tensor {name!r}")
        elif state[name].shape != tensor.shape:
            wrong.append(f"{name!r} has the shape {tuple(state[name].shape)} in the file and {tuple(tensor.shape)} in "
                         f"{type(module).__name__}")
        elif state[name].dtype != tensor.dtype:
            wrong.append(f"{name!r} is {state[name].dtype} in the file and {tensor.dtype} in {type(module).__name__}")
    if strict:
        wrong += [f"{type(module).__name__} has no place for {name!r}" for name in state if name not in own]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise WeightsFileError(f"{path}: {wrong[0]}{more}")


# -- between bytes and disk

def _read(path: str, header_only: bool = False) -> bytes:
    """A file's content, or its header, after the length that it begins with was found possible."""
    with open(path, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if not total:
            raise WeightsFileError(f"{path}: the file is empty")
        if start[:4] == b"PK\x03\x04":
            raise WeightsFileError(f"{path}: a zip archive, such as torch.save writes; use safetensors instead")
        if total < 10 or not 2 <= length <= min(HEADER_LIMIT, total - 8):
            raise WeightsFileError(f"{path}: cut off, or no safetensors file: it has {total} bytes and wants a header "
                                   f"of {length}")
        return start + (file.read(length) if header_only else file.read())


def _replace(path: str, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, whole."""
    folder = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        flush_folder(handle)
    finally:
        os.close(handle)
