"""Modules in rows, lists and dictionaries; parameters in lists and dictionaries."""

from __future__ import annotations

import pytest

import distgrad as dg
from distgrad import nn


def test_sequential() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = dg.randn(4, 2)
    assert (net(x) == net[2](net[1](net[0](x)))).all() and len(net) == 3
    assert isinstance(net[:2], nn.Sequential) and net[:2][0] is net[0] and net[-1] is net[2]
    last = net.pop(-1)
    assert len(net) == 2 and list(net.append(last)) == [net[0], net[1], last]
    del net[0]
    assert list(net._modules) == ["0", "1"] and net[0].__class__ is nn.ReLU
    net.insert(0, nn.Identity())
    assert [type(m).__name__ for m in net] == ["Identity", "ReLU", "Linear"]
    assert len(net + nn.Sequential(nn.Tanh())) == 4
    net[1] = nn.Tanh()
    assert isinstance(net[1], nn.Tanh)
    named = nn.Sequential({"a": nn.ReLU(), "b": nn.Tanh()})
    assert list(named._modules) == ["a", "b"] and isinstance(named.a, nn.ReLU) and list(named[:1]._modules) == ["a"]
    with pytest.raises(IndexError):
        net[7]
    with pytest.raises(TypeError):
        nn.Sequential(nn.ReLU(), 3)


def test_module_list() -> None:
    layers = nn.ModuleList([nn.Linear(1, 1)])
    layers.append(nn.ReLU()).extend([nn.Tanh(), nn.Tanh()])
    layers += [nn.Identity()]
    assert len(layers) == 5 and isinstance(layers[1:3], nn.ModuleList) and len(layers[1:3]) == 2
    assert isinstance(layers.pop(1), nn.ReLU) and [type(m).__name__ for m in layers] == [
        "Linear", "Tanh", "Tanh", "Identity"]
    assert "(1-2): 2 x Tanh()" in repr(layers)
    assert list(layers.state_dict()) == ["0.weight", "0.bias"]
    del layers[1:3]
    assert list(layers._modules) == ["0", "1"]
    with pytest.raises(NotImplementedError):
        layers(1)


def test_module_dict() -> None:
    layers = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Linear(1, 1)})
    layers["c"] = nn.Tanh()
    layers.update([("a", nn.Tanh())])
    assert list(layers) == ["a", "b", "c"] and isinstance(layers["a"], nn.Tanh) and "b" in layers and len(layers) == 3
    assert isinstance(layers.pop("b"), nn.Linear) and list(layers.keys()) == ["a", "c"]
    with pytest.raises(KeyError):
        del layers["b"]
    layers.clear()
    assert not list(layers.items()) and not list(layers.values())


def test_parameter_containers() -> None:
    some = nn.ParameterList([nn.Parameter(dg.ones(2)), dg.zeros(3)])
    some.append(dg.ones(1))
    assert len(some) == 3 and isinstance(some[1], nn.Parameter) and some[-1].shape == (1,) and len(some[:2]) == 2
    some[0] = dg.zeros(5)
    assert list(some.state_dict()) == ["0", "1", "2"] and some.state_dict()["0"].shape == (5,)
    with pytest.raises(TypeError):
        some.append(3)
    named = nn.ParameterDict({"w": dg.ones(2)})
    named["b"] = dg.zeros(1)
    named["w"] = dg.zeros(2)
    assert list(named) == ["w", "b"] and named["w"].requires_grad and "b" in named and len(named) == 2
    assert named.pop("b").shape == (1,) and list(named.keys()) == ["w"]
    assert repr(named) == "ParameterDict(  (w): Parameter containing: [distgrad.float32 of size 2])"
