"""default_collate and default_convert: structures of samples become batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import distgrad as dg
from distgrad.data import default_collate, default_convert


class Pair(NamedTuple):
    x: object
    y: object


@pytest.mark.parametrize("samples, dtype, values", [
    ([1, 2], "int64", [1, 2]),
    ([1.5, 2.0], "float64", [1.5, 2.0]),
    ([1, 2.5], "float64", [1.0, 2.5]),
    ([True, False], "bool", [True, False]),
    ([1j, 2j], "complex128", [1j, 2j]),
    ([np.float32(1), np.float32(2)], "float32", [1.0, 2.0]),
    ([np.ones(2, np.uint8), np.zeros(2, np.uint8)], "uint8", [[1, 1], [0, 0]]),
    ([dg.tensor([1.0]), dg.tensor([2.0])], "float32", [[1.0], [2.0]]),
    ([dg.tensor(3), dg.tensor(4)], "int64", [3, 4]),
])
def test_leaves(samples: list, dtype: str, values: list) -> None:
    batch = default_collate(samples)
    assert isinstance(batch, dg.Tensor)
    assert str(batch.dtype) == dtype and batch.tolist() == values


def test_structures() -> None:
    samples = [{"x": dg.ones(3) * i, "name": f"n{i}", "at": (i, [float(i), np.int32(i)])} for i in range(4)]
    batch = default_collate(samples)
    assert batch["x"].shape == (4, 3) and batch["name"] == ["n0", "n1", "n2", "n3"]
    number, (real, small) = batch["at"]
    assert number.tolist() == [0, 1, 2, 3] and str(real.dtype) == "float64" and str(small.dtype) == "int32"
    pairs = default_collate([Pair(1, "a"), Pair(2, "b")])
    assert isinstance(pairs, Pair) and pairs.x.tolist() == [1, 2] and pairs.y == ["a", "b"]


def test_a_batch_does_not_share_the_samples_memory() -> None:
    samples = [np.zeros(2), np.ones(2)]
    default_collate(samples)[0, 0] = 9
    assert samples[0][0] == 0


@pytest.mark.parametrize("samples, error, text", [
    ([], ValueError, "at least one sample"),
    ([dg.ones(2), dg.ones(3)], RuntimeError, r"shapes.*sample 1 has \(3,\)"),
    ([np.ones(2), np.ones((2, 1))], RuntimeError, r"shapes.*sample 1 has \(2, 1\)"),
    ([dg.ones(2), 3.0], TypeError, "sample 1 has float"),
    ([(1, 2), (1, 2), (1,)], RuntimeError, "lengths.*sample 2 has 1"),
    ([{"a": 1}, {"b": 1}], RuntimeError, "keys"),
    ([object(), object()], TypeError, "collate_fn"),
    ([None, None], TypeError, "NoneType"),
    ([1, "a"], TypeError, "element type"),
])
def test_refusals(samples: list, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        default_collate(samples)


def test_convert_keeps_the_structure() -> None:
    found = default_convert({"x": np.ones(2), "y": (1, [np.float32(2)]), "z": Pair(np.ones(1), "a")})
    assert isinstance(found["x"], dg.Tensor) and found["y"][0] == 1 and found["y"][1][0].item() == 2
    assert isinstance(found["z"], Pair) and isinstance(found["z"].x, dg.Tensor) and found["z"].y == "a"
