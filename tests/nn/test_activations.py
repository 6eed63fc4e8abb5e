"""Activations: values and slopes, above all where two pieces meet; losses as modules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

import distgrad as dg
from distgrad import nn
from distgrad.nn import functional as F

POINTS = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, -60.0, 60.0])
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772  # selu's
sigmoid = special.expit


def step(condition):
    return np.where(condition, 1.0, 0.0)


# module, value, slope; slopes at the joints are torch's
ROWS = {
    "ReLU": (nn.ReLU(), lambda x: np.maximum(x, 0), lambda x: step(x > 0)),
    "ReLU6": (nn.ReLU6(), lambda x: np.clip(x, 0, 6), lambda x: step((x > 0) & (x < 6))),
    "LeakyReLU": (nn.LeakyReLU(0.2), lambda x: np.where(x > 0, x, 0.2 * x), lambda x: np.where(x > 0, 1, 0.2)),
    "ELU": (nn.ELU(0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0))),
            lambda x: np.where(x > 0, 1, 0.5 * np.exp(np.minimum(x, 0)))),
    "CELU": (nn.CELU(2.0), lambda x: np.where(x > 0, x, 2 * np.expm1(np.minimum(x, 0) / 2)),
             lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0) / 2))),
    "SELU": (nn.SELU(), lambda x: SCALE * np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0))),
             lambda x: SCALE * np.where(x > 0, 1, ALPHA * np.exp(np.minimum(x, 0)))),
    "Tanh": (nn.Tanh(), np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "Sigmoid": (nn.Sigmoid(), sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "LogSigmoid": (nn.LogSigmoid(), special.log_expit, lambda x: sigmoid(-x)),
    "SiLU": (nn.SiLU(), lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * sigmoid(-x))),
    "GELU": (nn.GELU(), lambda x: x * special.ndtr(x),
             lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)),
    "Softplus": (nn.Softplus(2.0), lambda x: np.logaddexp(0, 2 * x) / 2, lambda x: sigmoid(2 * x)),
    "Softsign": (nn.Softsign(), lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "Tanhshrink": (nn.Tanhshrink(), lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2),
    "Softshrink": (nn.Softshrink(0.5), lambda x: np.sign(x) * np.maximum(abs(x) - 0.5, 0),
                   lambda x: step(abs(x) > 0.5)),
    "Hardshrink": (nn.Hardshrink(0.5), lambda x: np.where(abs(x) > 0.5, x, 0), lambda x: step(abs(x) > 0.5)),
    "Hardtanh": (nn.Hardtanh(-1, 3), lambda x: np.clip(x, -1, 3), lambda x: step((x > -1) & (x < 3))),
    "Hardsigmoid": (nn.Hardsigmoid(), lambda x: np.clip(x / 6 + 0.5, 0, 1), lambda x: step((x > -3) & (x < 3)) / 6),
    "Hardswish": (nn.Hardswish(), lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
                  lambda x: np.where(x <= -3, 0, np.where(x < 3, x / 3 + 0.5, 1))),
    "Mish": (nn.Mish(), lambda x: x * np.tanh(np.logaddexp(0, x)),
             lambda x: np.tanh(np.logaddexp(0, x)) + x * sigmoid(x) / np.cosh(np.logaddexp(0, x)) ** 2),
    "Threshold": (nn.Threshold(0.5, 20.0), lambda x: np.where(x > 0.5, x, 20), lambda x: step(x > 0.5)),
    "PReLU": (nn.PReLU().double(), lambda x: np.where(x > 0, x, 0.25 * x), lambda x: np.where(x > 0, 1, 0.25)),
}


@pytest.mark.parametrize("name", ROWS)
def test_value_and_slope(name) -> None:
    layer, value, slope = ROWS[name]
    x = dg.tensor(POINTS, requires_grad=True)
    y = layer(x)
    np.testing.assert_allclose(y.array, value(POINTS), rtol=1e-12, atol=1e-12)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.array, slope(POINTS), rtol=1e-9, atol=1e-12)
    assert math.isnan(layer(dg.tensor([math.nan], dtype=dg.float64)).item()) or name in ("Threshold", "Hardshrink")


@pytest.mark.parametrize("layer", [nn.ReLU(True), nn.ELU(inplace=True), nn.Hardtanh(inplace=True), nn.SiLU(True),
                                   nn.LeakyReLU(0.1, True), nn.Hardswish(True), nn.Mish(True), nn.CELU(2.0, True)])
def test_in_place(layer) -> None:
    x = dg.tensor([-1.0, 2.0], requires_grad=True)
    middle = x * 1
    expected = type(layer)()(x) if not isinstance(layer, (nn.LeakyReLU, nn.CELU)) else None
    out = layer(middle)
    assert out is middle
    if expected is not None:
        assert (out == expected).all()
    out.sum().backward()
    assert x.grad is not None
    with pytest.raises(RuntimeError):
        layer(x)


def test_softmax_family_and_glu() -> None:
    x = dg.randn(3, 4, dtype=dg.float64)
    e = np.exp(x.array)
    assert np.allclose(nn.Softmax(1)(x).array, e / e.sum(1, keepdims=True))
    assert np.allclose(nn.LogSoftmax(0)(x).array, np.log(e / e.sum(0)))
    assert np.allclose(nn.Softmin(1)(x).array, nn.Softmax(1)(-x).array)
    assert np.allclose(nn.GLU()(x).array, x.array[:, :2] * sigmoid(x.array[:, 2:]))
    weights = nn.PReLU(4)
    with dg.no_grad():
        weights.weight.copy_(dg.arange(4))
    assert weights(-dg.ones(2, 4)).tolist() == [[0.0, -1.0, -2.0, -3.0]] * 2
    for error, act in ((RuntimeError, lambda: nn.GLU(0)(x)), (RuntimeError, lambda: nn.PReLU(2)(x)),
                       (ValueError, lambda: nn.Hardtanh(1, 1)), (RuntimeError, lambda: F.softshrink(x, -1.0)),
                       (RuntimeError, lambda: F.celu(x, 0.0)), (RuntimeError, lambda: nn.GELU("erf")(x))):
        with pytest.raises(error):
            act()


LOSSES = [
    (nn.MSELoss, {}, lambda x, t: (x - t) ** 2), (nn.L1Loss, {}, lambda x, t: abs(x - t)),
    (nn.HuberLoss, {"delta": 0.5},
     lambda x, t: np.where(abs(x - t) < 0.5, (x - t) ** 2 / 2, 0.5 * (abs(x - t) - 0.25))),
    (nn.SmoothL1Loss, {"beta": 0.5}, lambda x, t: np.where(abs(x - t) < 0.5, (x - t) ** 2, abs(x - t) - 0.25)),
    (nn.BCELoss, {}, lambda x, t: -(t * np.log(x) + (1 - t) * np.log(1 - x))),
    (nn.BCEWithLogitsLoss, {}, lambda x, t: np.logaddexp(0, x) - t * x),
    (nn.KLDivLoss, {}, lambda x, t: t * (np.log(t) - x)),
]


@pytest.mark.parametrize(("kind", "settings", "formula"), LOSSES, ids=lambda v: getattr(v, "__name__", ""))
def test_elementwise_losses(kind, settings, formula) -> None:
    x, t = dg.rand(3, 4, dtype=dg.float64), dg.rand(3, 4, dtype=dg.float64)
    each = formula(x.array, t.array)
    assert np.allclose(kind(reduction="none", **settings)(x, t).array, each)
    assert np.allclose(kind(reduction="sum", **settings)(x, t).array, each.sum())
    assert np.allclose(kind(**settings)(x, t).array, each.mean())


def test_losses_over_classes() -> None:
    x, t = dg.randn(5, 3, dtype=dg.float64), dg.tensor([0, 2, -100, 1, 2])
    weight = dg.tensor([1.0, 2.0, 3.0], dtype=dg.float64)
    p = np.log(special.softmax(x.array, axis=1))
    rows = [0, 1, 3, 4]
    each = -p[rows, t.array[rows]]
    w = weight.array[t.array[rows]]
    assert np.allclose(nn.CrossEntropyLoss()(x, t).array, each.mean())
    assert np.allclose(nn.CrossEntropyLoss(weight)(x, t).array, (each * w).sum() / w.sum())
    assert np.allclose(nn.NLLLoss(weight)(nn.LogSoftmax(1)(x), t).array, (each * w).sum() / w.sum())
    smooth = 0.9 * each - 0.1 * p[rows].mean(1)
    assert np.allclose(nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")(x, t).array, smooth.sum())
    loss = nn.CrossEntropyLoss(weight)
    assert list(loss.state_dict()) == ["weight"] and list(nn.BCEWithLogitsLoss(pos_weight=weight).state_dict()) == [
        "pos_weight"]
    assert np.allclose(nn.CosineSimilarity()(x, x).array, 1)
