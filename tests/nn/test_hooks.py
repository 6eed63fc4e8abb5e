"""Hooks on modules, in the order in which they run, and what they may replace."""

from __future__ import annotations

import pytest

import distgrad as dg
from distgrad import nn


class Affine(nn.Module):
    def forward(self, x, y=None, *, factor=1.0):
        out = x * 2 * factor
        return out if y is None else (out + y, y * 3)


def test_forward_hooks_see_and_replace() -> None:
    layer, log = Affine(), []
    first = layer.register_forward_pre_hook(lambda m, args: log.append("pre") or (args[0] + 1,))
    layer.register_forward_pre_hook(lambda m, args: log.append("early"), prepend=True)
    layer.register_forward_hook(lambda m, args, out: log.append(args[0].item()) or out * 10)
    assert layer(dg.tensor(1.0)).item() == 40.0
    assert log == ["early", "pre", 2.0]
    first.remove()
    assert layer(dg.tensor(1.0)).item() == 20.0


def test_hooks_with_keyword_arguments() -> None:
    layer = Affine()
    layer.register_forward_pre_hook(lambda m, args, kwargs: (args, {"factor": 5.0}), with_kwargs=True)
    seen = []
    layer.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    assert layer(dg.tensor(1.0)).item() == 10.0 and seen == [{"factor": 5.0}]
    layer.register_forward_pre_hook(lambda m, args, kwargs: 3, with_kwargs=True)
    with pytest.raises(RuntimeError, match="pair"):
        layer(dg.tensor(1.0))


def test_full_backward_hooks_see_both_ends() -> None:
    layer, log = Affine(), []
    layer.register_full_backward_pre_hook(lambda m, gout: log.append(("pre", [g.item() for g in gout])))
    layer.register_full_backward_hook(
        lambda m, gin, gout: log.append(("post", [g.item() for g in gin], [g.item() for g in gout])))
    x, y = dg.tensor(1.0, requires_grad=True), dg.tensor(1.0, requires_grad=True)
    a, b = layer(x, y)
    (a * 5 + b * 7).backward()
    # d/dx = 2 * 5; d/dy = 5 + 3 * 7
    assert log == [("pre", [5.0, 7.0]), ("post", [10.0, 26.0], [5.0, 7.0])]
    assert x.grad.item() == 10.0 and y.grad.item() == 26.0


def test_full_backward_hooks_replace_gradients() -> None:
    layer = nn.Linear(1, 1, bias=False)
    with dg.no_grad():
        layer.weight.fill_(3.0)
    layer.register_full_backward_pre_hook(lambda m, gout: (gout[0] * 10,))
    layer.register_full_backward_hook(lambda m, gin, gout: (gin[0] + 1,))
    x = dg.tensor([[2.0]], requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad.item() == 20.0 and x.grad.item() == 31.0


def test_full_backward_hook_without_gradients_of_inputs() -> None:
    layer, log = nn.Linear(2, 1), []
    layer.register_full_backward_hook(lambda m, gin, gout: log.append((gin, gout[0].tolist())))
    layer(dg.ones(1, 2)).sum().backward()
    assert log == [((None,), [[1.0]])]


def test_an_output_without_gradient_is_none() -> None:
    layer, log = Affine(), []
    layer.register_full_backward_hook(lambda m, gin, gout: log.append((gin, gout)))
    x, y = dg.tensor(1.0, requires_grad=True), dg.tensor(1.0, requires_grad=True)
    layer(x, y)[1].backward()
    (gin, gout), = log
    assert gin[0] is None and gin[1].item() == 3.0 and gout[0] is None and gout[1].item() == 1.0
    assert x.grad is None and y.grad.item() == 3.0


def test_wrong_number_of_gradients() -> None:
    layer = Affine()
    layer.register_full_backward_hook(lambda m, gin, gout: (gin[0], gin[0]))
    with pytest.raises(RuntimeError, match="expected 1"):
        layer(dg.tensor(1.0, requires_grad=True)).backward()


def test_hooked_second_derivative() -> None:
    layer, seen = Affine(), []
    layer.register_full_backward_hook(lambda m, gin, gout: seen.append(gin[0].item()))
    x = dg.tensor(3.0, requires_grad=True)
    (g,) = dg.autograd.grad(layer(x) ** 3, x, create_graph=True)
    g.backward()
    assert x.grad.item() == 6 * 8 * 3 and seen[0] == 8 * 3 * 9


def test_no_gates_without_recording() -> None:
    layer = Affine()
    layer.register_full_backward_hook(lambda m, gin, gout: pytest.fail("nothing runs backward"))
    with dg.no_grad():
        assert layer(dg.tensor(1.0, requires_grad=True)).grad_fn is None


def test_saved_values_behind_a_gate_are_watched() -> None:
    layer = nn.Sigmoid()
    layer.register_full_backward_hook(lambda m, gin, gout: None)
    x = dg.tensor([1.0], requires_grad=True)
    y = x * 1
    out = layer(y)
    with pytest.raises(RuntimeError):
        out.mul_(2)  # the gate's output is one of a group of views
