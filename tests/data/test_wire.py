"""Batches as bytes: what comes out is what went in, and nothing is made of what is not known here."""

from __future__ import annotations

import os
from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import distgrad as dg
from distgrad.data.wire import decode, encode, receive, send
from tests.data.readers import Pair

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=100),
    st.complex_numbers(allow_nan=False),
    arrays.arrays(st.sampled_from(["?", "u1", "<i8", ">f4", "<f8", "c8", "U3", "S2", "M8[s]"]),
                  arrays.array_shapes(min_dims=0, min_side=0)))
VALUES = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.tuples(inner, inner), st.builds(Pair, inner, inner),
    st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner, max_size=3)), max_leaves=8)


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, dict):
        return list(one) == list(two) and all(map(same, one.values(), two.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return repr(one) == repr(two)


@settings(max_examples=300, deadline=None)
@given(value=VALUES)
def test_what_is_sent_arrives(value: Any) -> None:
    one, two = Pipe()
    with one, two:
        send(one, value, os.getpid())
        assert same(receive(two), value)


@pytest.mark.parametrize("size", [0, 10, 5000, 1 << 20])
def test_small_and_large(size: int) -> None:
    value = {"a": np.arange(size), "b": "x" * size, "c": dg.arange(size), "d": np.float32(size), "e": bytearray(size)}
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    one, two = Pipe()
    with one, two:
        send(one, value, os.getpid())
        found = receive(two)
    assert isinstance(found["c"], dg.Tensor) and np.array_equal(found["c"].numpy(), np.arange(size))
    assert same(found["a"], value["a"]) and same([found[key] for key in "bde"], [value[key] for key in "bde"])
    found["a"][:1] = 5
    assert value["a"][:1].tolist() != [5]
    if before:
        assert len(os.listdir("/proc/self/fd")) == before, "descriptors stay open"


@pytest.mark.parametrize("value, text", [
    (object(), "not object"), ({1, 2}, "not set"), (np.array([{}]), "arrays of object"),
    ([{"a": print}], "not builtin_function"),
])
def test_what_cannot_be_sent(value: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        encode(value)


@pytest.mark.parametrize("name", [["os", "system"], ["builtins", "eval"], ["nowhere", "Pair"], ["tests", "Pair"]])
def test_only_named_tuples_that_are_known_are_made(name: list[str]) -> None:
    with pytest.raises(TypeError, match="does not know"):
        decode(["named", *name, [1, 2]], b"")
