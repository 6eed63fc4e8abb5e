"""Weights files: what is saved comes back, whoever wrote it; damage and misfits are found before anything loads."""

from __future__ import annotations

import builtins
import json
import os
import stat
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import distgrad as dg
from distgrad import nn
from distgrad.checkpoint import load_metadata, load_weights, save_weights
from distgrad.errors import WeightsFileError

STATE = {"a": dg.arange(6, dtype=dg.float32).reshape(2, 3), "b.c": dg.tensor(3), "d": dg.zeros(0, 4)}


def model(seed: int = 0, width: int = 4) -> nn.Module:
    dg.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2, bias=False))


def values(state: Any) -> dict[str, Any]:
    state = state.state_dict() if isinstance(state, nn.Module) else state
    return {name: tensor.numpy().copy() for name, tensor in state.items()}


def same(a: Any, b: Any) -> bool:
    a, b = values(a), values(b)
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) and
                                        a[n].shape == b[n].shape for n in a)


def rewrite(path: Path, change: Any) -> None:
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data) or data)


# -- there and back

def test_a_model_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    source, target = model(1), model(2)
    source(dg.randn(5, 3))  # moves the running statistics
    save_weights(source, path)
    assert not same(source, target)
    found = load_weights(path, target)
    assert same(source, target) and same(found, source)
    assert os.listdir(tmp_path) == ["w.safetensors"], "no temporary file stays"


@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
                                  "complex64", "uint16", "uint32", "uint64"])
def test_every_dtype_comes_back(tmp_path: Path, kind: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(kind)
    state = {"x": dg.from_numpy(array), "scalar": dg.from_numpy(np.array(array[1, 1])),
             "turned": dg.from_numpy(array.T), "strided": dg.from_numpy(array[:, ::2]),
             "swapped": dg.from_numpy(array.astype(array.dtype.newbyteorder(">")))}
    save_weights(state, tmp_path / "w")
    found = values(load_weights(tmp_path / "w"))
    assert all(np.array_equal(found[name], values(state)[name]) for name in state)
    assert {str(array.dtype) for array in found.values()} == {kind}


def test_loaded_tensors_can_be_written(tmp_path: Path) -> None:
    save_weights(STATE, tmp_path / "w")
    found = load_weights(tmp_path / "w")
    found["a"][0, 0] = 9.0
    assert found["a"][0, 0].item() == 9.0


def test_metadata(tmp_path: Path) -> None:
    save_weights(STATE, tmp_path / "w", {"note": "ä\n", "epoch": "3"})
    assert load_metadata(tmp_path / "w") == {"note": "ä\n", "epoch": "3"}
    save_weights(STATE, tmp_path / "w")
    assert load_metadata(tmp_path / "w") == {}


def test_others_read_what_we_write(tmp_path: Path) -> None:
    save_weights(STATE, tmp_path / "w", {"note": "n"})
    found = safetensors.numpy.load_file(tmp_path / "w")
    assert same({n: dg.from_numpy(np.array(a)) for n, a in found.items()}, STATE)
    with safetensors.safe_open(tmp_path / "w", framework="np") as file:
        assert file.metadata()["note"] == "n"


def test_we_read_what_others_write(tmp_path: Path) -> None:
    half = np.array([1.5, -2.0, np.inf, 3e38], dtype=ml_dtypes.bfloat16)
    source = model(3)
    safetensors.numpy.save_file(values(source), tmp_path / "w", {"format": "pt"})
    target = model(4)
    load_weights(tmp_path / "w", target)
    assert same(source, target) and load_metadata(tmp_path / "w") == {"format": "pt"}
    safetensors.numpy.save_file({"half": half}, tmp_path / "w")
    found = load_weights(tmp_path / "w")["half"]
    assert found.dtype == dg.float32 and np.array_equal(found.numpy(), half.astype(np.float32))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    save_weights(STATE, path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        save_weights({"a": dg.ones(100)}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["w"]
    with pytest.raises(FileNotFoundError):
        save_weights(STATE, tmp_path / "nowhere" / "w")
    with pytest.raises(IsADirectoryError):
        (tmp_path / "folder").mkdir()
        save_weights(STATE, tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["folder", "w"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_weights(STATE, tmp_path / "w")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o640


@pytest.mark.parametrize("state, metadata, error, text", [
    ([1, 2], None, TypeError, "got list"),
    ({"a": np.ones(2)}, None, TypeError, "'a' is no tensor but a ndarray"),
    ({3: dg.ones(2)}, None, TypeError, "3 cannot be the name"),
    ({"__metadata__": dg.ones(2)}, None, TypeError, "__metadata__"),
    ({"z": dg.ones(2, dtype=dg.complex128)}, None, TypeError, "'z' is complex128"),
    ({"a": dg.ones(2)}, {"epoch": 3}, TypeError, "'epoch': 3"),
    ({"a": dg.ones(2)}, {"distgrad.crc32": "0"}, ValueError, "taken"),
])
def test_what_cannot_be_saved(tmp_path: Path, state: Any, metadata: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        save_weights(state, tmp_path / "w", metadata)
    assert not os.listdir(tmp_path)


# -- damage

def header(length: int, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + rest


@pytest.mark.parametrize("data, text", [
    (b"", "empty"),
    (b"\x02\x00", "cut off"),
    (header(2), "cut off"),
    (header(2, b"{"), "cut off"),
    (header(1 << 62, b"{}"), "wants a header of"),
    (header(200_000_000, b"{}" * 8), "wants a header of"),
    (header(0, b"{}"), "wants a header of 0"),
    (header(3, b"[1]"), "no safetensors file"),
    (header(2, b"\xff\xfe"), "no safetensors file"),
    (header(60, b"[" * 60), "no safetensors file"),
    (b"PK\x03\x04" + bytes(100), "zip archive"),
    (b"a plain text that is no weights file", "no safetensors file"),
    (header(65, b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}       \0'), "'a' is F8_E4M3"),
])
def test_foreign_files(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(data)
    with pytest.raises(WeightsFileError, match=text) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    for load in (load_weights, load_metadata):
        with pytest.raises(FileNotFoundError, match="nothing"):
            load(tmp_path / "nothing")
        with pytest.raises(IsADirectoryError):
            load(tmp_path)


def test_a_file_that_is_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_weights(STATE, path, {"note": "n"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsFileError):
            load_weights(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(WeightsFileError):
        load_weights(path)


def test_a_flipped_byte_anywhere_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "w"
    target = nn.Linear(2, 2)
    save_weights(target, path, {"note": "n"})
    whole, right = path.read_bytes(), values(target)
    harmless = 0
    for place in range(len(whole)):
        for flip in (0x01, 0x20, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1:])
            try:
                found = load_weights(path, target)
            except WeightsFileError:
                pass
            else:
                harmless += 1
                assert same(found, {name: dg.from_numpy(array) for name, array in right.items()})
            assert all(np.array_equal(array, right[name]) for name, array in values(target).items())
    assert harmless < 0.2 * 3 * len(whole), "only metadata and white space may change unseen"


# -- misfits

def test_misfits_change_nothing(tmp_path: Path) -> None:
    path, target = tmp_path / "w", model(2)
    before = values(target)
    good = model(1).state_dict()
    last = list(good)[-1]
    cases = {
        "has no tensor '2.weight'": {n: t for n, t in good.items() if n != "2.weight"},
        "Sequential has no place for 'more'": {**good, "more": dg.ones(2)},
        rf"'{last}' has the shape \(3, 3\) in the file and \(2, 4\)": {**good, last: dg.ones(3, 3)},
        f"'{last}' is float64 in the file and float32": {**good, last: good[last].double()},
        r"'0.weight' has the shape .*\(and 6 more\)": model(1, width=5).state_dict(),
    }
    for text, state in cases.items():
        save_weights(state, path)
        with pytest.raises(WeightsFileError, match=text) as caught:
            load_weights(path, target)
        assert str(path) in str(caught.value)
        assert all(np.array_equal(array, before[name]) for name, array in values(target).items())


def test_not_strict(tmp_path: Path) -> None:
    path, source, target = tmp_path / "w", model(1), model(2)
    state = source.state_dict()
    bias = state.pop("0.bias")
    save_weights({**state, "more": dg.ones(2)}, path)
    found = load_weights(path, target, strict=False)
    assert "more" in found and np.array_equal(target[0].weight.detach().numpy(), source[0].weight.detach().numpy())
    assert not np.array_equal(target[0].bias.detach().numpy(), bias.numpy())
    save_weights({"0.weight": dg.ones(1, 1)}, path)
    with pytest.raises(WeightsFileError, match="shape"):
        load_weights(path, target, strict=False)


def test_only_modules_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got dict"):
        load_weights(tmp_path / "w", {})


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(STATE, tmp_path / "w")
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    for action in (lambda: save_weights(STATE, tmp_path / "v"), lambda: load_weights(tmp_path / "w")):
        with pytest.raises(ImportError, match=r"pip install \"distgrad\[io\]\""):
            action()


# -- several ranks

def test_rank_0_writes_for_all(tmp_path: Path) -> None:
    path = tmp_path / "w"

    def body(rank: int) -> tuple[bool, dict[str, Any]]:
        wrapped = dg.distributed.DataParallel(model(rank))
        save_weights(wrapped, path)
        there = path.exists()
        state = values(load_weights(path))
        other = dg.distributed.DataParallel(model(rank + 5))
        load_weights(path, other)
        assert same(other.module, wrapped.module)
        for dp in (wrapped, other):
            dp.close()
        return there, state

    results = dg.simulate(3)(body)
    assert all(there for there, _ in results)
    assert list(results[0][1]) and all(np.array_equal(state[n], values(model(0))[n]) for _, state in results
                                       for n in values(model(0)))
    assert set(json.loads(path.read_bytes()[8:].partition(b"}}")[0] + b"}}")) - {"__metadata__"} == set(values(model()))


@pytest.mark.parametrize("state, where, error, text", [
    (STATE, "nowhere/w", FileNotFoundError, "No such file"),
    ({"a": 3}, "w", TypeError, "'a' is no tensor"),
])
def test_rank_0s_failure_is_everybodys(tmp_path: Path, state: Any, where: str, error: type[Exception],
                                       text: str) -> None:
    def body(rank: int) -> None:
        with pytest.raises(error, match=text):
            save_weights(state, tmp_path / where)

    dg.simulate(3)(body)
