"""Starting values: distributions by their bounds and moments, structure by its algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.nn import init


@pytest.fixture(autouse=True)
def seeded():
    dg.manual_seed(0)


def moments(t):
    return float(t.array.mean()), float(t.array.std()), float(np.abs(t.array).max())


@pytest.mark.parametrize(("fill", "std", "bound"), [
    (lambda t: init.uniform_(t, -2, 2), 4 / math.sqrt(12), 2.0),
    (lambda t: init.normal_(t, 0.0, 3.0), 3.0, math.inf),
    (lambda t: init.xavier_uniform_(t, gain=2.0), 2 * math.sqrt(2 / 700), 2 * math.sqrt(6 / 700)),
    (lambda t: init.xavier_normal_(t), math.sqrt(2 / 700), math.inf),
    (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), 1 / math.sqrt(3 * 300), 1 / math.sqrt(300)),
    (lambda t: init.kaiming_uniform_(t, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / 400), math.sqrt(6 / 400)),
    (lambda t: init.kaiming_normal_(t, nonlinearity="relu"), math.sqrt(2 / 300), math.inf),
    (lambda t: init.trunc_normal_(t, 0.0, 1.0, -1.0, 1.0), 0.5396, 1.0),
])
def test_distributions(fill, std, bound) -> None:
    weight = nn.Parameter(dg.empty(400, 300))
    assert fill(weight) is weight and weight.requires_grad and weight.grad_fn is None
    mean, found, largest = moments(weight)
    assert abs(mean) < 5 * std / math.sqrt(weight.numel())
    assert found == pytest.approx(std, rel=0.02) and largest <= bound
    if bound < math.inf:
        assert largest > 0.99 * bound


def test_convolutions_count_the_kernel() -> None:
    weight = init.kaiming_uniform_(dg.empty(64, 32, 3, 3), a=math.sqrt(5))
    assert 0.99 / math.sqrt(288) < moments(weight)[2] <= 1 / math.sqrt(288)


def test_constants_and_structure() -> None:
    assert init.constant_(dg.empty(2), 3.0).tolist() == [3.0, 3.0]
    assert init.ones_(dg.empty(1)).item() == 1.0 and init.zeros_(dg.empty(1)).item() == 0.0
    assert init.eye_(dg.empty(2, 3)).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    kernel = init.dirac_(dg.empty(4, 2, 3), groups=2)
    x = dg.randn(1, 4, 7)
    assert np.allclose(nn.functional.conv1d(x, kernel, padding=1, groups=2).array, x.array)
    thin = init.sparse_(dg.empty(10, 4), 0.3)
    assert ((thin.array == 0).sum(axis=0) == 3).all()


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (4, 2, 3)])
def test_orthogonal(shape) -> None:
    w = init.orthogonal_(dg.empty(*shape, dtype=dg.float64), gain=2.0).array.reshape(shape[0], -1)
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    assert np.allclose(product, 4 * np.eye(len(product)))


def test_a_generator_and_a_seed_repeat() -> None:
    a = init.normal_(dg.empty(5), generator=dg.Generator(3))
    assert (a == init.normal_(dg.empty(5), generator=dg.Generator(3))).all()
    dg.manual_seed(1)
    first = nn.Linear(3, 3).weight
    dg.manual_seed(1)
    assert (nn.Linear(3, 3).weight == first).all()


def test_gains() -> None:
    assert init.calculate_gain("tanh") == 5 / 3 and init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("leaky_relu", 2) == math.sqrt(2 / 5) and init.calculate_gain("linear") == 1
    for bad in (("nothing",), ("leaky_relu", True)):
        with pytest.raises(ValueError):
            init.calculate_gain(*bad)


@pytest.mark.parametrize("act", [
    lambda: init.xavier_uniform_(dg.empty(3)), lambda: init.eye_(dg.empty(3)), lambda: init.orthogonal_(dg.empty(3)),
    lambda: init.dirac_(dg.empty(3)), lambda: init.dirac_(dg.empty(3, 1, 1), groups=2),
    lambda: init.kaiming_normal_(dg.empty(2, 2), mode="fan"), lambda: init.sparse_(dg.empty(2), 0.1)])
def test_refusals(act) -> None:
    with pytest.raises(ValueError):
        act()


@pytest.mark.parametrize(("layer", "bounds"), [
    (lambda: nn.Linear(64, 200), {"weight": 1 / 8, "bias": 1 / 8}),
    (lambda: nn.Conv2d(8, 64, 4, groups=2), {"weight": 1 / 8, "bias": 1 / 8}),
    (lambda: nn.LSTM(7, 100), {"weight_ih_l0": 0.1, "weight_hh_l0": 0.1, "bias_ih_l0": 0.1}),
    (lambda: nn.GRUCell(7, 100), {"weight_ih": 0.1, "bias_hh": 0.1}),
    (lambda: nn.Bilinear(64, 3, 50), {"weight": 1 / 8}),
    (lambda: nn.ConvTranspose2d(3, 16, 2), {"weight": 1 / 8}),
])
def test_layers_start_as_torch_does(layer, bounds) -> None:
    made = layer()
    for name, bound in bounds.items():
        largest = moments(getattr(made, name))[2]
        assert 0.95 * bound < largest <= bound, name
    assert abs(moments(nn.Embedding(100, 100).weight)[1] - 1) < 0.03
