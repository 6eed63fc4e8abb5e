"""Modules: what belongs to them, under which names, and how they are saved, loaded, copied and shown."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest

import distgrad as dg
from distgrad import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.rest = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3))
        self.scale = nn.Parameter(dg.ones(3))
        self.register_buffer("seen", dg.zeros(1))
        self.register_buffer("scratch", dg.zeros(1), persistent=False)
        self.register_parameter("missing", None)

    def forward(self, x):
        return self.rest(self.first(x)) * self.scale


NAMES = ["scale", "first.weight", "first.bias", "rest.1.weight", "rest.1.bias"]


def test_names_and_order() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_buffers()] == [
        "seen", "scratch", "rest.1.running_mean", "rest.1.running_var", "rest.1.num_batches_tracked"]
    assert [name for name, _ in net.named_modules()] == ["", "first", "rest", "rest.0", "rest.1"]
    assert [name for name, _ in net.named_children()] == ["first", "rest"]
    assert list(net.state_dict()) == ["scale", "seen", "first.weight", "first.bias", "rest.1.weight", "rest.1.bias",
                                      "rest.1.running_mean", "rest.1.running_var", "rest.1.num_batches_tracked"]
    assert len(list(net.parameters(recurse=False))) == 1
    assert [name for name, _ in net.named_parameters("net")][0] == "net.scale"


def test_shared_tensors_and_modules_count_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert len(list(net.named_parameters(remove_duplicate=False))) == 4
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    twice = nn.Sequential(net[0], net[0])
    assert len(list(twice.modules())) == 2
    assert list(twice.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert twice.load_state_dict(twice.state_dict()).missing_keys == []


def test_assignment_moves_a_name_between_kinds() -> None:
    net = Net()
    net.first = nn.Parameter(dg.ones(1))
    assert "first" in net._parameters and "first" not in net._modules
    net.first = None
    assert net.first is None and dict(net.named_parameters()).get("first") is None
    del net.first
    assert not hasattr(net, "first")
    net.seen = dg.ones(4)
    assert net.state_dict()["seen"].shape == (4,)
    net.buffered = nn.Buffer(dg.ones(2), persistent=False)
    assert "buffered" in dict(net.named_buffers()) and "buffered" not in net.state_dict()
    net.plain = dg.ones(2)
    assert "plain" not in net._buffers


@pytest.mark.parametrize(("error", "act"), [
    (TypeError, lambda net: setattr(net, "scale", dg.ones(3))),
    (TypeError, lambda net: setattr(net, "seen", 3)),
    (TypeError, lambda net: setattr(net, "first", lambda x: x)),
    (TypeError, lambda net: net.register_parameter("w", dg.ones(1))),
    (TypeError, lambda net: net.register_buffer("b", 1)),
    (TypeError, lambda net: net.add_module("m", 1)),
    (TypeError, lambda net: net.add_module(1, nn.ReLU())),
    (KeyError, lambda net: net.add_module("a.b", nn.ReLU())),
    (KeyError, lambda net: net.add_module("", nn.ReLU())),
    (KeyError, lambda net: net.add_module("forward", nn.ReLU())),
    (AttributeError, lambda net: net.get_submodule("rest.7")),
    (AttributeError, lambda net: net.get_parameter("rest.1.nothing")),
    (AttributeError, lambda net: net.nothing),
    (ValueError, lambda net: net.train("yes")),
    (TypeError, lambda net: net.to(dg.int64)),
    (TypeError, lambda net: net.load_state_dict([])),
    (NotImplementedError, lambda net: nn.Module()(1)),
])
def test_refusals(error, act) -> None:
    with pytest.raises(error):
        act(Net())


def test_super_init_must_come_first() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match="super"):
        Early()


def test_a_computed_tensor_is_no_parameter() -> None:
    computed = nn.Parameter(dg.ones(2))
    computed.fn = (computed * 2).fn
    with pytest.raises(ValueError, match="computed"):
        nn.Module().register_parameter("w", computed)
    shared = dg.ones(2)
    nn.Parameter(shared).data.fill_(5.0)
    assert shared.tolist() == [5.0, 5.0]
    with pytest.raises(RuntimeError):
        nn.Parameter(dg.tensor([1, 2]))


def test_state_travels_and_keeps_memory() -> None:
    a, b = Net(), Net()
    memory = b.first.weight.array
    assert tuple(b.load_state_dict(a.state_dict())) == ([], [])
    assert b.first.weight.array is memory and (b.first.weight == a.first.weight).all()
    assert a.state_dict()["scale"].requires_grad is False
    assert a.state_dict(keep_vars=True)["scale"] is a.scale
    a.state_dict()["scale"].fill_(7.0)
    assert a.scale.tolist() == [7.0] * 3


def test_loading_says_all_and_changes_nothing() -> None:
    net = Net()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    state["scale"] = dg.full((3,), 9.0)
    del state["seen"]
    state["extra"] = dg.ones(1)
    state["first.weight"] = dg.ones(4, 4)
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    for part in ("seen", "extra", "first.weight", "(4, 4)", "(3, 2)"):
        assert part in str(caught.value)
    assert net.scale.tolist() == [1.0] * 3
    with pytest.raises(RuntimeError, match=r"first\.weight"):
        net.load_state_dict(state, strict=False)
    del state["first.weight"]
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["seen", "first.weight"] and result.unexpected_keys == ["extra"]
    assert net.scale.tolist() == [9.0] * 3


def test_loading_by_assignment() -> None:
    net = nn.Linear(2, 2)
    given = dg.ones(2, 2)
    net.load_state_dict({"weight": given, "bias": dg.zeros(2)}, assign=True)
    assert net.weight.array is given.array and isinstance(net.weight, nn.Parameter) and net.weight.requires_grad


def test_modes_apply_and_freezing() -> None:
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "ReLU", "BatchNorm1d", "Sequential", "Net"]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())


def test_zero_grad() -> None:
    net = Net()
    net(dg.randn(4, 2)).sum().backward()
    held = net.scale.grad
    net.zero_grad(set_to_none=False)
    assert net.scale.grad is held and held.tolist() == [0.0] * 3
    net.zero_grad()
    assert net.scale.grad is None


def test_dtype_changes_in_place() -> None:
    net = Net()
    net(dg.randn(4, 2)).sum().backward()
    parameter = net.first.weight
    assert net.double() is net
    assert net.first.weight is parameter and parameter.dtype == dg.float64 and parameter.grad.dtype == dg.float64
    assert net.rest[1].running_mean.dtype == dg.float64 and net.rest[1].num_batches_tracked.dtype == dg.int64
    assert net.to(dg.float16).scale.dtype == dg.float16
    assert net.to(dg.ones(1)).scale.dtype == dg.float32
    memory = net.scale.array
    assert net.to(net.scale.device, dg.float32).scale.array is memory


def test_deepcopy_is_independent_and_keeps_what_is_shared() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    other = copy.deepcopy(net)
    assert other[1].weight is other[0].weight is other[0]._parameters["weight"]
    assert isinstance(other[0].weight, nn.Parameter)
    with dg.no_grad():
        other[0].weight.fill_(0.0)
    assert not (net[0].weight == 0).all()


def test_modules_are_freed_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        net = Net()
        net(dg.randn(4, 2)).sum().backward()
        gone = weakref.ref(net.first.weight), weakref.ref(net)
        del net
        assert gone[0]() is None and gone[1]() is None
    finally:
        gc.enable()


def test_repr() -> None:
    assert repr(Net()) == """Net(
  (first): Linear(in_features=2, out_features=3, bias=True)
  (rest): Sequential(
    (0): ReLU()
    (1): BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
  )
)"""
    assert repr(nn.Parameter(dg.ones(2, device="cpu"))) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"
