"""A hundred thousand headers and manifests that nobody wrote: each is refused or read, at once and in little memory."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgrad import checkpoint, nn
from distgrad.checkpoint import weights
from distgrad.checkpoint.manifest import Manifest, _digest
from distgrad.checkpoint.tensorfile import TensorFile, TensorReader, parse_header
from distgrad.errors import CheckpointError, WeightsFileError

INPUTS = 100_000
ARRAYS = {"weight": np.arange(12, dtype="f4").reshape(3, 4), "bias": np.zeros(3, "f8"), "step": np.array(3, "i8"),
          "mask": np.ones((2, 1), bool), "none": np.zeros((0, 5), "c8")}
NUMBERS = ["0", "-1", "1", "7", "1e3", "2147483648", "9223372036854775807", "18446744073709551616", "1" * 50, "null",
           "true", '""', "[]", "{}", "[[]]", "NaN", "1.5", '"F64"', '"F128"', '"BF16"', "9" * 5000]


def whole_file() -> bytes:
    file = TensorFile("x.safetensors", ARRAYS)
    return file._header + b"".join(array.tobytes() for array in file._arrays.values())


def whole_manifest(tmp_path: Path) -> bytes:
    checkpoint.save(tmp_path / "one", {"model": nn.Linear(3, 2)}, 3, {"a": [1, 2.5, {"b": np.ones(2)}]})
    return (tmp_path / "one" / "manifest.json").read_bytes()


def mutated(data: bytes, stream: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled, replaced; tokens of JSON exchanged for others."""
    changed = bytearray(data)
    for _ in range(stream.choice((1, 1, 2, 4))):
        at = stream.randrange(len(changed) + 1)
        match stream.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << stream.randrange(8)
            case 1:
                del changed[at:at + stream.choice((1, 2, 8, 64))]
            case 2:
                changed[at:at] = changed[at:at + stream.choice((1, 4, 32))]
            case 3:
                changed[at:at + 1] = stream.choice((b"[", b"{", b'"', b"\\u0000", b"\xff", b"\x00", b"[" * 300))
            case _:
                end = at
                while end < len(changed) and chr(changed[end]) not in ",:]}":
                    end += 1
                changed[at:end] = stream.choice(NUMBERS).encode()
    return bytes(changed)


def files(count: int) -> Iterator[bytes]:
    """Whole files whose headers, lengths of headers, or everything, are not right."""
    stream, right = random.Random(1), whole_file()
    length = int.from_bytes(right[:8], "little")
    for number in range(count):
        match number % 8:
            case 0:
                yield mutated(right, stream)
            case 1:
                claimed = stream.choice((0, 1, length - 1, length + 1, 1 << stream.randrange(64)))
                yield claimed.to_bytes(8, "little") + right[8:]
            case 2:
                yield stream.randbytes(stream.randrange(64))
            case _:
                header = mutated(right[8:8 + length], stream)
                yield len(header).to_bytes(8, "little") + header + right[8 + length:]


def counted(inputs: Iterator[Any], read: Callable[[Any], object]) -> tuple[int, int]:
    """How many inputs were read and how many refused; none takes long, but for what else the machine does."""
    good = bad = 0
    slowest = 0.0
    for data in inputs:
        begin = time.perf_counter()
        try:
            read(data)
            good += 1
        except (CheckpointError, WeightsFileError):
            bad += 1
        slowest = max(slowest, time.perf_counter() - begin)
    assert slowest < 5
    return good, bad


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "kilobytes"


@pytest.mark.slow
def test_headers() -> None:
    """The parser itself: 70,000 of the inputs."""
    right = whole_file()
    length = int.from_bytes(right[:8], "little")
    assert parse_header(right[8:8 + length], len(right) - 8 - length, "x").keys() == ARRAYS.keys()

    def read(data: bytes) -> None:
        length = min(int.from_bytes(data[:8], "little"), len(data))
        for entry in parse_header(data[8:8 + length], max(len(data) - 8 - length, 0), "x").values():
            assert entry.end - entry.begin == entry.dtype.itemsize * math.prod(entry.shape) <= len(data)

    good, bad = counted(files(INPUTS * 7 // 10), read)
    assert good + bad == INPUTS * 7 // 10 and 0 < good < bad


@pytest.mark.slow
def test_files(tmp_path: Path) -> None:
    """Files, read as checkpoints and as weights are: 10,000 of the inputs."""
    handle = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)

    def read(data: bytes) -> None:
        os.ftruncate(handle, 0)
        os.pwrite(handle, data, 0)
        reader = TensorReader(handle, "x")
        for key, entry in reader.entries.items():
            assert reader.read(key).shape == entry.shape

    try:
        good, bad = counted(files(INPUTS // 20), read)
    finally:
        os.close(handle)
    assert good + bad == INPUTS // 20 and 0 < good < bad
    good, bad = counted(files(INPUTS // 20), lambda data: weights._decode("x", data))
    assert good + bad == INPUTS // 20 and 0 < good < bad


@pytest.mark.slow
def test_manifests(tmp_path: Path) -> None:
    """10,000 whose hash is wrong, and 10,000 by somebody who knows how to make it right, through to the states."""
    right = whole_manifest(tmp_path)
    stream = random.Random(2)
    good, bad = counted((mutated(right, stream) for _ in range(INPUTS // 10)), Manifest.from_bytes)
    assert bad > 0.98 * INPUTS // 10, "but for white space and the like"
    content = json.dumps(json.loads(right)["content"]).encode()
    model, folder = nn.Linear(3, 2), os.open(tmp_path / "one", os.O_RDONLY)

    def signed(data: bytes) -> bytes:
        try:
            found = json.loads(data)
            return json.dumps({"format": "distgrad.checkpoint", "version": 1, "sha256": _digest(found),
                               "content": found}).encode()
        except (ValueError, RecursionError):
            return data

    def read(data: bytes) -> None:
        from distgrad.checkpoint.loading import give_back
        from distgrad.distributed import world

        give_back(world(), folder, Manifest.from_bytes(data), {"model": model}, "x")

    try:
        good, bad = counted((signed(mutated(content, stream)) for _ in range(INPUTS // 10)), read)
    finally:
        os.close(folder)
    assert good + bad == INPUTS // 10 and 0 < good < bad


def test_a_header_that_lies_allocates_nothing(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F64", "shape": [1 << 40], "data_offsets": [0, 1 << 43]}}).encode()
    for data in (len(header).to_bytes(8, "little") + header, (1 << 60).to_bytes(8, "little") + header,
                 (99_000_000).to_bytes(8, "little") + header):
        (tmp_path / "x").write_bytes(data)
        handle = os.open(tmp_path / "x", os.O_RDONLY)
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointError):
                TensorReader(handle, "x")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
            os.close(handle)
