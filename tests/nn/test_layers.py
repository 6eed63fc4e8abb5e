"""Layers: each against its formula in numpy, and its gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.autograd import gradcheck
from distgrad.nn import functional as F


@pytest.fixture(autouse=True)
def seeded():
    dg.manual_seed(0)


def double(*shape):
    return dg.randn(*shape, dtype=dg.float64, requires_grad=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def arrays(module):
    return {name: p.array for name, p in module.named_parameters()}


def check(module, *inputs):
    """Gradients of inputs and parameters are what central differences along a random direction say."""
    def loss():
        out = module(*inputs)
        return ((out[0] if isinstance(out, tuple) else out) ** 2).sum()

    leaves = [*inputs, *module.parameters()]
    for leaf in leaves:
        leaf.grad = None
    loss().backward()
    for leaf in leaves:
        direction = np.random.default_rng(0).standard_normal(leaf.shape)
        start = leaf.array.copy()
        ends = []
        for sign in (1, -1):
            leaf.array[...] = start + sign * 1e-6 * direction
            ends.append(loss().item())
        leaf.array[...] = start
        slope = float((leaf.grad.array * direction).sum())
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_linear() -> None:
    layer, x = nn.Linear(3, 2).double(), double(4, 5, 3)
    w = arrays(layer)
    assert np.allclose(layer(x).array, x.array @ w["weight"].T + w["bias"])
    check(layer, x)
    assert nn.Linear(3, 2, bias=False).bias is None
    with pytest.raises(RuntimeError):
        layer(double(4, 2))


def test_bilinear() -> None:
    layer, a, b = nn.Bilinear(2, 3, 4).double(), double(5, 2), double(5, 3)
    w = arrays(layer)
    assert np.allclose(layer(a, b).array, np.einsum("bi,kij,bj->bk", a.array, w["weight"], b.array) + w["bias"])
    check(layer, a, b)


def test_shape_layers() -> None:
    x = double(2, 3, 4)
    assert nn.Flatten()(x).shape == (2, 12) and nn.Flatten(0, 1)(x).shape == (6, 4)
    assert nn.Unflatten(2, (2, 2))(x).shape == (2, 3, 2, 2)
    assert nn.Identity(1, unused=2)(x) is x


def test_embedding() -> None:
    layer = nn.Embedding(5, 3, padding_idx=-4)
    assert layer.padding_idx == 1 and not layer.weight[1].any()
    index = dg.tensor([[0, 1], [4, 0]])
    out = layer(index)
    assert out.shape == (2, 2, 3) and (out[1, 0] == layer.weight[4]).all()
    out.sum().backward()
    assert layer.weight.grad.array[:, 0].tolist() == [2.0, 0.0, 0.0, 0.0, 1.0]
    frozen = nn.Embedding.from_pretrained(dg.ones(4, 2))
    assert not frozen.weight.requires_grad and frozen.num_embeddings == 4
    with pytest.raises(ValueError):
        nn.Embedding(3, 2, padding_idx=3)


def test_embedding_refuses_an_index_out_of_range() -> None:
    with pytest.raises(IndexError):
        nn.Embedding(5, 3)(dg.tensor([5]))


def lstm_by_hand(x, h, c, w, suffix="_l0"):
    """One direction over (time, batch, in); gates i, f, g, o."""
    out = []
    for step in x:
        z = step @ w[f"weight_ih{suffix}"].T + h @ w[f"weight_hh{suffix}"].T
        z = z + w[f"bias_ih{suffix}"] + w[f"bias_hh{suffix}"]
        i, f, g, o = np.split(z, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        if f"weight_hr{suffix}" in w:
            h = h @ w[f"weight_hr{suffix}"].T
        out.append(h)
    return np.stack(out), h, c


def test_lstm_is_its_formula() -> None:
    layer, x = nn.LSTM(3, 4, num_layers=2, proj_size=2).double(), double(5, 2, 3)
    h0, c0 = double(2, 2, 2), double(2, 2, 4)
    y, (h, c) = layer(x, (h0, c0))
    w = arrays(layer)
    first, h_first, c_first = lstm_by_hand(x.array, h0.array[0], c0.array[0], w)
    second, h_second, c_second = lstm_by_hand(first, h0.array[1], c0.array[1], w, "_l1")
    assert np.allclose(y.array, second)
    assert np.allclose(h.array, [h_first, h_second]) and np.allclose(c.array, [c_first, c_second])


def test_lstm_runs_backwards_too() -> None:
    layer, x = nn.LSTM(3, 4, bidirectional=True, batch_first=True).double(), double(2, 5, 3)
    y, (h, _) = layer(x)
    zero = np.zeros((2, 4))
    steps = x.array.transpose(1, 0, 2)
    ahead, h_ahead, _ = lstm_by_hand(steps, zero, zero, arrays(layer))
    back, h_back, _ = lstm_by_hand(steps[::-1], zero, zero, arrays(layer), "_l0_reverse")
    assert np.allclose(y.array, np.concatenate([ahead, back[::-1]], axis=2).transpose(1, 0, 2))
    assert np.allclose(h.array, [h_ahead, h_back])


def test_gru_and_rnn_are_their_formulas() -> None:
    x, h = double(1, 2, 3), double(1, 2, 4)
    gru, rnn = nn.GRU(3, 4).double(), nn.RNN(3, 4, nonlinearity="relu").double()
    w = arrays(gru)
    a = x.array[0] @ w["weight_ih_l0"].T + w["bias_ih_l0"]
    b = h.array[0] @ w["weight_hh_l0"].T + w["bias_hh_l0"]
    r, z = sigmoid(a[:, :4] + b[:, :4]), sigmoid(a[:, 4:8] + b[:, 4:8])
    n = np.tanh(a[:, 8:] + r * b[:, 8:])
    assert np.allclose(gru(x, h)[1].array[0], (1 - z) * n + z * h.array[0])
    w = arrays(rnn)
    z = x.array[0] @ w["weight_ih_l0"].T + w["bias_ih_l0"] + h.array[0] @ w["weight_hh_l0"].T + w["bias_hh_l0"]
    assert np.allclose(rnn(x, h)[0].array[0], np.maximum(z, 0))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_without_a_batch_and_cells(kind) -> None:
    layer, x = kind(3, 4).double(), double(5, 3)
    y, last = layer(x)
    batched, _ = layer(x.unsqueeze(1))
    assert y.shape == (5, 4) and (y == batched.squeeze(1)).all()
    cell = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[kind](3, 4).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    state = None
    for step in x:
        state = cell(step, state)
    one, other = (state[0], last[0]) if kind is nn.LSTM else (state, last)
    assert one.shape == (4,) and np.allclose(one.array, other.array[0])
    check(cell, double(2, 3))


def test_recurrent_dropout_and_names() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    x = dg.randn(5, 2, 3)
    assert not (layer(x)[0] == layer(x)[0]).all()
    layer.eval()
    assert (layer(x)[0] == layer(x)[0]).all()
    assert list(layer.state_dict()) == [f"{kind}_l{k}" for k in (0, 1)
                                        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    assert [len(group) for group in layer.all_weights] == [4, 4] and layer.flatten_parameters() is None


@pytest.mark.parametrize(("error", "act"), [
    (ValueError, lambda: nn.LSTM(3, 4, dropout=2)), (ValueError, lambda: nn.LSTM(3, 4, proj_size=4)),
    (ValueError, lambda: nn.GRU(3, 0)), (ValueError, lambda: nn.RNN(3, 4, nonlinearity="gelu")),
    (TypeError, lambda: nn.LSTM(3, 4.0)),
    (RuntimeError, lambda: nn.LSTM(3, 4)(dg.ones(5, 2, 7))), (ValueError, lambda: nn.LSTM(3, 4)(dg.ones(3))),
    (RuntimeError, lambda: nn.LSTM(3, 4)(dg.ones(5, 2, 3), dg.ones(1, 2, 4))),
    (RuntimeError, lambda: nn.LSTM(3, 4)(dg.ones(5, 2, 3), (dg.ones(1, 3, 4), dg.ones(1, 2, 4)))),
    (RuntimeError, lambda: nn.GRU(3, 4)(dg.ones(5, 3), dg.ones(1, 1, 4))),
    (RuntimeError, lambda: nn.GRUCell(3, 4)(dg.ones(2, 5))), (ValueError, lambda: nn.GRUCell(3, 4)(dg.ones(1, 2, 3))),
    (RuntimeError, lambda: nn.GRUCell(3, 4)(dg.ones(2, 3), dg.ones(1, 4))),
])
def test_recurrent_refusals(error, act) -> None:
    with pytest.raises(error):
        act()


def test_norms_within_a_sample() -> None:
    x = double(3, 4, 5)
    a = x.array

    def standard(axes):
        return (a - a.mean(axes, keepdims=True)) / np.sqrt(a.var(axes, keepdims=True) + 1e-5)

    layer = nn.LayerNorm((4, 5)).double()
    with dg.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    assert np.allclose(layer(x).array, standard((1, 2)) * layer.weight.array + layer.bias.array)
    check(layer, x)
    assert np.allclose(nn.GroupNorm(4, 4).double()(x).array, standard((2,)))
    assert np.allclose(nn.GroupNorm(1, 4).double()(x).array, standard((1, 2)))
    assert np.allclose(nn.InstanceNorm1d(4).double()(x).array, standard((2,)))
    assert np.allclose(nn.RMSNorm(5, eps=0.1).double()(x).array,
                       a / np.sqrt((a * a).mean(-1, keepdims=True) + 0.1))
    assert nn.LayerNorm(5, bias=False).bias is None and nn.LayerNorm(5, elementwise_affine=False).weight is None
    for error, act in ((RuntimeError, lambda: layer(double(3, 5, 4))), (ValueError, lambda: nn.GroupNorm(3, 4)),
                       (ValueError, lambda: nn.InstanceNorm2d(4)(x[0])),
                       (NotImplementedError, lambda: nn.InstanceNorm1d(4, track_running_stats=True))):
        with pytest.raises(error):
            act()


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 5), (2, 3, 4, 2)])
def test_batch_norm(shape) -> None:
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    layer = kind(3).double()
    axes = (0, *range(2, len(shape)))
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = double(*shape)
        a = x.array
        wide = (1, 3, *(1,) * (len(shape) - 2))
        y = layer(x)
        assert np.allclose(y.array, (a - a.mean(axes).reshape(wide)) / np.sqrt(a.var(axes).reshape(wide) + 1e-5))
        mean = 0.9 * mean + 0.1 * a.mean(axes)
        var = 0.9 * var + 0.1 * a.var(axes, ddof=1)
    assert np.allclose(layer.running_mean.array, mean) and np.allclose(layer.running_var.array, var)
    assert layer.num_batches_tracked.item() == 3
    layer.eval()
    assert np.allclose(layer(x).array, (a - mean.reshape(wide)) / np.sqrt(var.reshape(wide) + 1e-5))
    assert layer.num_batches_tracked.item() == 3
    layer.reset_running_stats()
    assert layer.running_var.tolist() == [1.0] * 3 and layer.num_batches_tracked.item() == 0
    check(kind(3, track_running_stats=False).double(), x)
    check(layer, x)


def test_batch_norm_averages_without_momentum_and_refuses() -> None:
    layer = nn.BatchNorm1d(2, momentum=None)
    batches = [dg.randn(4, 2) for _ in range(3)]
    for x in batches:
        layer(x)
    assert np.allclose(layer.running_mean.array, np.mean([x.array.mean(0) for x in batches], axis=0), atol=1e-6)
    with pytest.raises(ValueError):
        layer(dg.ones(1, 2))
    with pytest.raises(ValueError):
        layer(dg.ones(2, 2, 2, 2))
    plain = nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    assert not plain.state_dict() and not plain.eval()(dg.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().item()


def test_convolutions() -> None:
    layer, x = nn.Conv1d(1, 1, 2).double(), double(1, 1, 5)
    (w0, w1), a = layer.weight.array[0, 0], x.array[0, 0]
    assert np.allclose(layer(x).array[0, 0], w0 * a[:-1] + w1 * a[1:] + layer.bias.array)
    check(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2).double(), double(1, 2, 5, 4))
    check(nn.ConvTranspose2d(2, 2, 2, stride=2, output_padding=1).double(), double(1, 2, 3, 3))
    for mode, edge in (("reflect", [2, 1]), ("replicate", [0, 1]), ("circular", [4, 3])):
        padded = nn.Conv1d(1, 1, 3, padding=1, padding_mode=mode, bias=False)
        with dg.no_grad():
            padded.weight.copy_(dg.tensor([[[1.0, 0.0, 0.0]]]))
        assert padded(dg.arange(5).float().reshape(1, 1, 5)).array[0, 0, 0] == edge[0] - (mode == "reflect")
    assert nn.Conv2d(1, 1, 3, padding="same")(dg.ones(1, 1, 5, 4)).shape == (1, 1, 5, 4)
    for act in (lambda: nn.Conv2d(3, 4, 3, groups=2), lambda: nn.Conv2d(2, 2, 3, padding_mode="mirror"),
                lambda: nn.Conv2d(2, 2, 3, padding="full"), lambda: nn.Conv2d(2, 2, 3, stride=2, padding="same"),
                lambda: nn.Conv2d(2, 2, (3, 3, 3)), lambda: nn.ConvTranspose2d(2, 2, 3, padding_mode="reflect")):
        with pytest.raises(ValueError):
            act()


def test_pooling() -> None:
    x = dg.arange(16).double().reshape(1, 1, 4, 4)
    assert nn.MaxPool2d(2)(x).tolist() == [[[[5, 7], [13, 15]]]]
    assert nn.AvgPool2d(2)(x).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert nn.AdaptiveAvgPool2d((1, None))(x).tolist() == [[[[6, 7, 8, 9]]]]
    line = dg.arange(6).double().reshape(1, 6)
    assert nn.MaxPool1d(3, stride=1)(line).tolist() == [[2, 3, 4, 5]]
    assert nn.AvgPool1d(2)(line).tolist() == [[0.5, 2.5, 4.5]]
    assert nn.AdaptiveAvgPool1d(2)(line).tolist() == [[1, 4]]
    best, where = nn.MaxPool2d(2, return_indices=True)(x)
    assert where.tolist() == [[[[5, 7], [13, 15]]]] and best.dtype == dg.float64


def test_dropout_acts_in_training_only() -> None:
    layer, x = nn.Dropout(0.25), dg.ones(100, 100, requires_grad=True)
    y = layer(x)
    kept = y.array != 0
    assert np.allclose(y.array[kept], 1 / 0.75) and abs(kept.mean() - 0.75) < 0.02
    y.sum().backward()
    assert np.allclose(x.grad.array, y.array)
    assert layer.eval()(x) is x or (layer(x) == x).all()
    channels = nn.Dropout2d(0.5)(dg.ones(20, 10, 3, 3)).array
    assert {len(np.unique(plane)) for sample in channels for plane in sample} == {1}
    assert nn.Dropout1d(0.5)(dg.ones(50, 3)).array.std(axis=1).max() == 0
    z = dg.ones(10)
    assert nn.Dropout(0.5, inplace=True)(z) is z
    with pytest.raises(ValueError):
        nn.Dropout(1.5)


def test_attention_is_its_formula() -> None:
    q, k, v = double(2, 3, 4), double(2, 5, 4), double(2, 5, 6)
    scores = np.einsum("nle,nse->nls", q.array, k.array) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    attend = F.scaled_dot_product_attention
    assert np.allclose(attend(q, k, v).array, weights @ v.array)
    mask = dg.tensor([[True, False, True, True, True]])
    assert np.allclose(attend(q, k, v, mask).array, attend(q, k[:, [0, 2, 3, 4]], v[:, [0, 2, 3, 4]]).array)
    causal = attend(k, k, v, is_causal=True)
    assert np.allclose(causal.array[:, 0], v.array[:, 0]) and np.allclose(causal.array[:, -1],
                                                                          attend(k, k, v).array[:, -1])
    assert gradcheck(lambda *x: attend(*x, is_causal=True), (double(1, 3, 2), double(1, 3, 2), double(1, 3, 2)))
    with pytest.raises(RuntimeError):
        attend(q, k, v, mask, is_causal=True)


def test_multihead_attention() -> None:
    layer, x = nn.MultiheadAttention(4, 2, batch_first=True).double(), double(2, 3, 4)
    y, weights = layer(x, x, x)
    fast, none = layer(x, x, x, need_weights=False)
    assert none is None and np.allclose(y.array, fast.array) and np.allclose(weights.array.sum(-1), 1)
    padded, weights = layer(x, x, x, key_padding_mask=dg.tensor([[False, False, True]] * 2))
    assert not weights.array[..., 2].any()
    assert np.allclose(padded.array, layer(x, x[:, :2], x[:, :2])[0].array)
    block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0).double()
    assert nn.TransformerEncoder(block, 2)(x).shape == x.shape
    check(block, double(2, 1, 4))
    for error, act in ((ValueError, lambda: nn.MultiheadAttention(5, 2)),
                       (RuntimeError, lambda: nn.TransformerEncoderLayer(4, 2, activation="sine")),
                       (RuntimeError, lambda: layer(x, x, x, is_causal=True))):
        with pytest.raises(error):
            act()


def test_normalize_and_one_hot() -> None:
    x = dg.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert F.normalize(x).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    assert F.one_hot(dg.tensor([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
    with pytest.warns(UserWarning, match="dim"):
        assert math.isclose(F.softmax(dg.randn(4)).sum().item(), 1, rel_tol=1e-6)
