"""Values that a checkpoint keeps come back as they were, to the type and the bit; others are refused, by name."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import checkpoint
from distgrad.checkpoint.tree import encode


def through(tmp_path: Path, extra: dict[str, Any]) -> dict[str, Any]:
    path = tmp_path / "one"
    checkpoint.save(path, {}, 5, extra)
    return checkpoint.load(path, {}).extra


@pytest.mark.parametrize("value", [
    None, True, False, 0, -3, 1 << 200, 0.1, -0.0, 1e-320, math.inf, -math.inf, "", "ä\n\0", [], {}, (), [1, [2, (3,)]],
    {"a": {"b": [1.5]}}, {1: "int", "1": "text", 2.5: None, (1, 2): [3], None: 1}, {"$tensor": "no reference"}, 2 + 3j,
    complex(math.inf, -0.0), {"": 1}, OrderedDict(b=1, a=2)])
def test_values(value: Any, tmp_path: Path) -> None:
    found = through(tmp_path, {"value": value})["value"]
    assert found == value and repr(found) == repr(dict(value) if isinstance(value, OrderedDict) else value)


def test_nan(tmp_path: Path) -> None:
    assert math.isnan(through(tmp_path, {"value": [math.nan]})["value"][0])


@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
                                  "float16", "float32", "float64", "complex64", "complex128"])
def test_arrays(kind: str, tmp_path: Path) -> None:
    array = (np.arange(12).reshape(3, 4) % 5).astype(kind)
    if array.dtype.kind in "fc":
        array[0, :2] = np.nan, -0.0
    values = {"array": array, "turned": array.T, "strided": array[::2, ::-1], "number": array[1, 2], "none": array[:0],
              "swapped": array.astype(array.dtype.newbyteorder(">")), "single": np.asarray(array[1, 1])}
    tensors = {f"tensor {n}": dg.from_numpy(np.asarray(value)) for n, value in values.items() if n != "swapped"}
    found = through(tmp_path, {**values, **tensors})
    for name, value in values.items():
        assert type(found[name]) is type(value) and found[name].dtype == np.dtype(kind), name
        assert found[name].tobytes() == np.asarray(value, kind).tobytes() and found[name].shape == value.shape
    for name, tensor in tensors.items():
        assert isinstance(found[name], dg.Tensor) and found[name].dtype == np.dtype(kind)
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes()
    found["array"][0, 0] = 0  # it may be written to


def test_names_that_look_alike(tmp_path: Path) -> None:
    value = {"a": {"b": np.ones(1)}, "a.b": np.zeros(2), "a.b~": np.full(3, 2.0), "__metadata__": np.full(4, 3.0)}
    found = through(tmp_path, {"value": value, "a.b": np.arange(3)})
    assert [found["value"][name].tolist() for name in ("a.b", "a.b~", "__metadata__")] == [[0] * 2, [2] * 3, [3] * 4]
    assert found["value"]["a"]["b"].tolist() == [1] and found["a.b"].tolist() == [0, 1, 2]


class Odd:
    pass


@pytest.mark.parametrize("value, text", [
    (Odd(), "'value' is a Odd"), ({"a": [1, {2}]}, r"'value.a.1' is a set"), (b"x", "is a bytes"), (len, "a builtin"),
    (np.array(["x"]), "elements of <U1"), (np.array([Odd()]), "elements of object"), ({Odd(): 1}, "is a Odd"),
    (np.zeros(2, "datetime64[s]"), "elements of datetime64"), (np.zeros(2, np.longdouble), "elements of"),
])
def test_other_values_are_refused(value: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=text):
        through(tmp_path, {"value": value})
    assert not (tmp_path / "one").exists()


def test_values_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(TypeError, match="contains itself"):
        through(tmp_path, {"value": value})
    with pytest.raises(TypeError, match="extra is a dictionary"):
        checkpoint.save(tmp_path / "one", {}, 0, {3: 4})  # type: ignore[dict-item]


def test_json_holds_no_array(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(encode({"w": dg.ones(1000), "lr": np.float64(0.1)}, "x", arrays), allow_nan=False)
    assert len(text) < 100 and arrays["w"].shape == (1000,) and float(arrays["lr"]) == 0.1
