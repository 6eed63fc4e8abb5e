"""Recurrent networks: values against step-by-step formulas, stacking, derivatives, errors."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend import get
from distgrad.ops.recurrent import gru, lstm, rnn_relu, rnn_tanh

from .neural import check_derivatives, leaf

T, B, I, H = 4, 3, 2, 3
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
OPS = {"lstm": lstm, "gru": gru, "rnn_tanh": rnn_tanh, "rnn_relu": rnn_relu}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(kind, z_x, z_h, state):
    """One time step from both affine maps (with their biases), as torch's documentation writes it."""
    if kind == "lstm":
        i, f, g, o = np.split(z_x + z_h, 4, axis=1)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    if kind == "gru":
        (xr, xz, xn), (hr, hz, hn) = np.split(z_x, 3, axis=1), np.split(z_h, 3, axis=1)
        z = sigmoid(xz + hz)
        return ((1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * state[0],)
    z = z_x + z_h
    return (np.tanh(z) if kind == "rnn_tanh" else np.maximum(z, 0),)


def by_hand(kind, x, states, weights, layers, directions, bias, proj):
    """The whole stack, one sample time step at a time. weights is the flat list, time comes first."""
    weights = iter(weights)
    ends = [[] for _ in states]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            w_ih, w_hh = next(weights), next(weights)
            b_ih, b_hh = (next(weights), next(weights)) if bias else (0, 0)
            w_hr = next(weights) if proj else None
            state = tuple(s[layer * directions + direction] for s in states)
            y = np.zeros((len(x), B, w_hh.shape[1]))
            for t in range(len(x))[::-1] if direction else range(len(x)):
                state = step(kind, x[t] @ w_ih.T + b_ih, state[0] @ w_hh.T + b_hh, state)
                if w_hr is not None:
                    state = (state[0] @ w_hr.T, state[1])
                y[t] = state[0]
            outputs.append(y)
            for kept, last in zip(ends, state, strict=True):
                kept.append(last)
        x = np.concatenate(outputs, axis=2)
    return (x, *[np.stack(kept) for kept in ends])


def network(kind, layers=1, directions=1, bias=True, proj=0, batch=B):
    """Leaves: the input, the states, the flat list of weights."""
    out, rows, seed = proj or H, GATES[kind] * H, iter(range(100))
    x = leaf(T, batch, I, seed=next(seed))
    states = [leaf(layers * directions, batch, size, seed=next(seed))
              for size in ((out, H) if kind == "lstm" else (H,))]
    weights = []
    for layer, _ in product(range(layers), range(directions)):
        shapes = [(rows, out * directions if layer else I), (rows, out)]
        shapes += [(rows,), (rows,)] if bias else []
        shapes += [(proj, H)] if proj else []
        weights += [leaf(*shape, seed=next(seed), scale=0.7) for shape in shapes]
    return x, states, weights


def run(kind, x, states, weights, **settings):
    """(output, last states...) of the op."""
    y, last = OPS[kind](x, tuple(states) if kind == "lstm" else states[0], weights, **settings)
    return (y, *last) if kind == "lstm" else (y, last)


CASES = [(kind, *rest) for kind, *rest in product(GATES, [1, 2], [1, 2], [True, False], [0, 2])
         if kind == "lstm" or not rest[-1]]


@pytest.mark.parametrize(("kind", "layers", "directions", "bias", "proj"), CASES)
def test_values(kind, layers, directions, bias, proj):
    x, states, weights = network(kind, layers, directions, bias, proj)
    settings = {"num_layers": layers, "bidirectional": directions == 2, "bias": bias}
    if proj:
        settings["proj_size"] = proj
    found = run(kind, x, states, weights, **settings)
    expected = by_hand(kind, x.detach().numpy(), [s.detach().numpy() for s in states],
                       [w.detach().numpy() for w in weights], layers, directions, bias, proj)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-10, atol=1e-12)
    turned = run(kind, x.transpose(0, 1), states, weights, batch_first=True, **settings)
    np.testing.assert_allclose(turned[0].detach().numpy(), expected[0].swapaxes(0, 1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "directions", "bias", "proj"), [
    ("lstm", 1, True, 0), ("lstm", 2, False, 2), ("lstm", 1, True, 2), ("gru", 1, True, 0), ("gru", 2, False, 0),
    ("rnn_tanh", 2, True, 0), ("rnn_relu", 1, False, 0),
])
def test_derivatives(kind, directions, bias, proj, monkeypatch):
    monkeypatch.setitem(globals(), "T", 2)
    monkeypatch.setitem(globals(), "H", 2)
    x, states, weights = network(kind, 1, directions, bias, proj and 1, batch=2)
    settings = {"bidirectional": directions == 2, "bias": bias}
    if proj:
        settings["proj_size"] = 1

    def call(x, *rest):
        return run(kind, x, rest[:len(states)], rest[len(states):], **settings)

    check_derivatives(call, x, *states, *weights)


def test_gradients_through_a_stack_equal_finite_differences():
    x, states, weights = network("lstm", layers=2, directions=2)

    def loss():
        y, h, c = run("lstm", x, states, weights, num_layers=2, bidirectional=True)
        return (y * y).sum() + (h * 2).sum() + (c * c).sum()

    loss().backward()
    for t in (x, *states, *weights):
        place = tuple(n // 2 for n in t.shape)
        array, values = t.array, []
        before = array[place].copy()
        for shift in (1e-6, -1e-6):
            array[place] = before + shift
            values.append(loss().item())
        array[place] = before
        np.testing.assert_allclose(t.grad.numpy()[place], (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-7)


def test_only_the_last_state_reached():
    x, states, weights = network("lstm")
    run("lstm", x, states, weights)[2].sum().backward()
    assert all(t.grad is not None and np.isfinite(t.grad.numpy()).all() for t in (x, *states, *weights))
    x2, states2, weights2 = network("lstm")
    y, h, c = run("lstm", x2, states2, weights2)
    (c.sum() + 0 * y.sum() + 0 * h.sum()).backward()
    np.testing.assert_allclose(x.grad.numpy(), x2.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("kind", GATES)
def test_results_of_a_layer_share_no_memory(kind):
    """A state changed in place must not reach the output or what backward reads, not even for a batch of one."""
    x, states, weights = network(kind, batch=1)
    arrays = [t.detach().numpy() for t in (x, *(s[0] for s in states), *weights)]
    kernels = get("cpu").kernels
    if kind == "lstm":
        found = kernels.lstm_layer(*arrays, None, False)
    elif kind == "gru":
        found = kernels.gru_layer(*arrays, False)
    else:
        found = kernels.rnn_layer(*arrays, kind[4:], False)
    for a, b in combinations(found, 2):
        assert not np.shares_memory(a, b)


@pytest.mark.parametrize("kind", GATES)
def test_half_precision(kind):
    x, states, weights = network(kind)
    half = [t.detach().to("float16").requires_grad_() for t in (x, *states, *weights)]
    found = run(kind, half[0], half[1:1 + len(states)], half[1 + len(states):])
    expected = run(kind, x, states, weights)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float16
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=1e-2)
    (found[0] * found[0]).sum().backward()
    (expected[0] * expected[0]).sum().backward()
    for a, b in zip(half, (x, *states, *weights), strict=True):
        assert a.grad.dtype == np.float16
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=5e-2)


def test_dropout_between_layers():
    x, states, weights = network("gru", layers=2)
    quiet = run("gru", x, states, weights, num_layers=2, dropout=0.5)
    np.testing.assert_array_equal(quiet[0].detach().numpy(),
                                  run("gru", x, states, weights, num_layers=2)[0].detach().numpy())
    dg.manual_seed(0)
    y, last = run("gru", x, states, weights, num_layers=2, dropout=0.5, training=True)
    assert (y.detach().numpy() != quiet[0].detach().numpy()).any()
    np.testing.assert_array_equal(last.detach().numpy()[0], quiet[1].detach().numpy()[0])  # the first layer is whole
    x, states, weights = network("gru")
    once = run("gru", x, states, weights, dropout=0.5, training=True)
    np.testing.assert_array_equal(once[0].detach().numpy(), run("gru", x, states, weights)[0].detach().numpy())


def test_frozen_weights_get_no_gradient():
    x, states, weights = network("lstm")
    weights[0].requires_grad_(False)
    x = x.detach()
    run("lstm", x, states, weights)[0].sum().backward()
    assert weights[0].grad is None and x.grad is None
    assert weights[1].grad is not None


@pytest.mark.parametrize(("change", "words"), [
    (lambda x, s, w: (x[:, :, 0], s, w), "time, batch, features"),
    (lambda x, s, w: (x[:0], s, w), "no steps"),
    (lambda x, s, w: (x, [s[0][:, :1], s[1]], w), r"h0 has shape \(1, 1, 3\), wanted \(1, 3, 3\)"),
    (lambda x, s, w: (x, [s[0], s[1][:, :, :2]], w), "c0"),
    (lambda x, s, w: (x, s, w[:-1]), "4 weights, got 3"),
    (lambda x, s, w: (x, s, [w[0][:, :1], *w[1:]]), "w_ih of layer 0"),
    (lambda x, s, w: (x.to("float32"), s, w), "float32"),
])
def test_errors(change, words):
    x, states, weights = change(*network("lstm"))
    with pytest.raises(RuntimeError, match=words):
        run("lstm", x, states, weights)
