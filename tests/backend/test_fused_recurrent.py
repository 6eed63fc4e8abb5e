"""Compiled recurrent layers against the reference: odd sizes and memory, what backward reads, NaN and inf."""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np
import pytest

from distgrad.backend import fused
from distgrad.backend.reference import find as reference

if importlib.util.find_spec("numba") is None:
    pytest.skip("needs numba (the extra 'fast')", allow_module_level=True)

from distgrad.backend.fused import recurrent
from distgrad.backend.fused.native import LOOPS

NAMES = [kind + "_layer" + way for kind in ("lstm", "gru", "rnn") for way in ("", "_backward")]
GATES = {"lstm": 4, "projected": 4, "gru": 3, "tanh": 1, "relu": 1}
# (steps, batch, inputs, hidden): one of each; whole and broken vectors and tiles; more than one visit of a panel
SIZES = [(5, 1, 1, 1), (6, 4, 3, 32), (7, 5, 9, 37), (9, 17, 2, 64), (5, 2, 3, 300)]
BOUND = {"float32": (2e-5, 4e-6), "float64": (1e-11, 1e-13)}  # relative, absolute: sums in another order
ALL = (True,) * 5


class Layer:
    """One layer of a kind with numbers of its own; `forward` and `backward` take either set of kernels."""

    def __init__(self, kind, size, dtype="float32", biased=True, seed=0):
        steps, batch, inputs, hidden = size
        rng = np.random.default_rng([seed, *size])

        def numbers(*shape):
            return rng.standard_normal(shape).astype(dtype)

        rows, outputs = GATES[kind] * hidden, 5 if kind == "projected" else hidden
        self.kind, self.constants = kind, [kind] if kind in ("tanh", "relu") else []
        self.name = {"projected": "lstm"}.get(kind, "rnn" if self.constants else kind) + "_layer"
        self.x, self.h0 = numbers(steps, batch, inputs), numbers(batch, outputs)
        self.c0 = [numbers(batch, hidden)] if self.name == "lstm_layer" else []
        self.w_ih, self.w_hh = numbers(rows, inputs) * 0.5, numbers(rows, outputs) / hidden ** 0.5
        self.biases = [numbers(rows), numbers(rows)] if biased else [None, None]
        self.w_hr = [numbers(outputs, hidden) * 0.3 if kind == "projected" else None] if self.c0 else []
        self.g = [numbers(steps, batch, outputs), numbers(batch, outputs), *[numbers(batch, hidden) for _ in self.c0]]

    def forward(self, kernel, reverse=False):
        return kernel(self.name)(self.x, self.h0, *self.c0, self.w_ih, self.w_hh, *self.biases, *self.w_hr,
                                 *self.constants, reverse)

    def backward(self, kernel, found, reverse=False, wanted=ALL):
        kept = found[2 + len(self.c0):]
        return kernel(self.name + "_backward")(*self.g, self.x, self.h0, self.w_ih, self.w_hh, *self.w_hr, found[0],
                                               *kept, wanted, *self.constants, reverse)


def compiled(name):
    return fused.find(name)


def readable(name):
    return lambda *arguments: reference(name)(np, *arguments)


def close(found, expected, dtype):
    relative, absolute = BOUND[dtype]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype == dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=relative, atol=absolute * max(1, np.abs(b).max(initial=0)))


@pytest.fixture
def only_compiled(monkeypatch):
    """The reference may not be asked."""
    for name in ("lstm", "gru", "rnn"):
        for way in ("", "_backward"):
            monkeypatch.setattr(recurrent, f"_reference_{name}{way}", None)


@pytest.mark.parametrize("name", NAMES)
def test_an_override_is_called_as_its_reference(name):
    assert list(inspect.signature(compiled(name)).parameters.values()) == \
        list(inspect.signature(reference(name)).parameters.values())[1:]  # without xp


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loop", [loop for loop in LOOPS if loop.family == "recurrent"], ids=lambda loop: loop.name)
def test_every_loop_compiles(loop, dtype):
    assert loop(dtype) is not None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", GATES)
def test_values_and_gradients(kind, size, reverse, dtype, only_compiled):
    layer = Layer(kind, size, dtype, biased=size[0] != 6)
    found, expected = layer.forward(compiled, reverse), layer.forward(readable, reverse)
    close(found, expected, dtype)
    close(layer.backward(compiled, found, reverse), layer.backward(readable, expected, reverse), dtype)


@pytest.mark.parametrize("kind", GATES)
def test_what_is_kept_serves_the_reference_too(kind):
    layer = Layer(kind, (7, 5, 9, 37))
    found, expected = layer.forward(compiled), layer.forward(readable)
    wanted = layer.backward(readable, expected)
    close(layer.backward(readable, found), wanted, "float32")
    close(layer.backward(compiled, expected), wanted, "float32")


@pytest.mark.parametrize("missing", [[0], [1], [0, 1], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("kind", GATES)
def test_outputs_without_a_cotangent(kind, missing, only_compiled):
    layer = Layer(kind, (7, 3, 4, 6), "float64")
    found = layer.forward(readable)
    layer.g = [None if i in missing else g for i, g in enumerate(layer.g)]
    close(layer.backward(compiled, found), layer.backward(readable, found), "float64")


@pytest.mark.parametrize("kind", GATES)
def test_only_what_is_wanted(kind, only_compiled):
    layer = Layer(kind, (6, 3, 4, 6))
    found = layer.forward(compiled)
    full = layer.backward(compiled, found)
    first = 2 + len(layer.c0) - 1  # behind x come the gradients of states
    places = [0, *range(first + 1, first + 5)]
    for i, place in enumerate(places):
        some = layer.backward(compiled, found, wanted=tuple(k == i for k in range(5)))
        np.testing.assert_array_equal(some[place], full[place])
        assert all(some[other] is None for other in places if other != place)


@pytest.mark.parametrize("kind", GATES)
def test_odd_memory(kind, only_compiled):
    """Transposed, strided and read-only arrays are read as they are, and stay as they are."""
    layer = Layer(kind, (7, 5, 9, 37))
    plain = layer.forward(compiled)
    gradients = layer.backward(compiled, plain)

    def odd(a):
        if a is None:
            return None
        wide = np.zeros((*a.shape[::-1], 2), a.dtype)
        wide[..., 0] = a.T
        view = wide[..., 0].T
        view.flags.writeable = False
        return view

    for name in ("x", "h0", "w_ih", "w_hh"):
        setattr(layer, name, odd(getattr(layer, name)))
    for name in ("c0", "biases", "w_hr", "g"):
        setattr(layer, name, [odd(a) for a in getattr(layer, name)])
    before = [g.copy() for g in layer.g]
    found = layer.forward(compiled)
    close(found, plain, "float32")
    close(layer.backward(compiled, found), gradients, "float32")
    for a, b in zip(layer.g, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", GATES)
def test_same_bits_every_time(kind):
    layer = Layer(kind, (9, 17, 2, 64))
    once, again = layer.forward(compiled), layer.forward(compiled)
    results = [(*found, *layer.backward(compiled, found)) for found in (once, again)]
    for a, b in zip(*results, strict=True):
        assert a is b is None or a.tobytes() == b.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", GATES)
def test_what_is_not_finite_passes_through_its_sample_alone(kind, bad, only_compiled):
    layer = Layer(kind, (7, 5, 9, 37))
    layer.x[3, 2, 4] = bad
    with np.errstate(all="ignore"):
        found, expected = layer.forward(compiled), layer.forward(readable)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            np.testing.assert_array_equal(np.isinf(a), np.isinf(b))
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)
        if np.isnan(bad):
            assert np.isnan(found[0][3:, 2]).all()
        rows = [0, 1, 3, 4]
        assert np.isfinite(found[0][:, rows]).all() and np.isfinite(found[0][:3]).all()
        gx, gx_expected = (layer.backward(k, f)[0] for k, f in ((compiled, found), (readable, expected)))
        np.testing.assert_array_equal(np.isnan(gx), np.isnan(gx_expected))


@pytest.mark.parametrize("kind", GATES)
def test_bad_cotangents_pass_through(kind, only_compiled):
    layer = Layer(kind, (7, 5, 9, 37))
    found = layer.forward(compiled)
    layer.g[0][3, 2, 1] = np.nan
    gx = layer.backward(compiled, found)[0]
    np.testing.assert_array_equal(np.isnan(gx), np.isnan(layer.backward(readable, found)[0]))
    assert np.isnan(gx[3, 2]).all() and np.isfinite(gx[:, [0, 1, 3, 4]]).all()


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("change", ["float16", "no samples", "mixed", "few steps"])
def test_the_rest_goes_to_the_reference(kind, change, monkeypatch):
    """Other dtypes, what is empty, and sequences too short for weights to be laid out."""
    layer = Layer(kind, (4 if change == "few steps" else 6, 3, 4, 6))
    arrays = ("x", "h0", "w_ih", "w_hh")
    lists = ("c0", "biases", "w_hr", "g")
    if change == "no samples":
        layer.x, layer.h0, layer.c0 = layer.x[:, :0], layer.h0[:0], [c[:0] for c in layer.c0]
    elif change == "mixed":
        layer.h0 = layer.h0.astype("float64")
    elif change == "float16":
        for name in arrays:
            setattr(layer, name, getattr(layer, name).astype(change))
        for name in lists:
            setattr(layer, name, [a if a is None else a.astype(change) for a in getattr(layer, name)])
    asked = []
    plain = f"_reference_{layer.name[:-6]}"
    truth = getattr(recurrent, plain)
    monkeypatch.setattr(recurrent, plain, lambda *arguments: asked.append(1) or truth(*arguments))
    found, expected = layer.forward(compiled), layer.forward(readable)
    assert asked
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
