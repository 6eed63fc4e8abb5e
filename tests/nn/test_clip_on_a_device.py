"""Clipping where gradients are on a device: the factor stays there, comes to what the host's does, nobody reads it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.backend import of
from distgrad.backend.strict import transfers
from distgrad.flat import DeviceFactor, Group, Placement, State, clip_factor, operand, plan
from distgrad.graph.base import wrap
from distgrad.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_grad_norms

pytestmark = pytest.mark.skipif("config.getoption('--device') == 'standin'", reason="whose arrays are strict ones")
SHAPES = [(3, 5), (5000,), (2, 70, 70), ()]  # with gaps between slots, and across blocks of the grid


def parameters(device: str, dtype: Any = "float32", scale: float = 1.0, flat: bool = True) -> tuple[list[Any], Any]:
    """Parameters with gradients, and the group if they lie in flat memory."""
    rng = np.random.default_rng(0)
    made = [nn.Parameter(dg.tensor(rng.standard_normal(shape).astype(dtype), device=device)) for shape in SHAPES]
    values = [dg.tensor(np.asarray(rng.standard_normal(shape) * scale, dtype), device=device) for shape in SHAPES]
    group = place(made) if flat else None
    for p, value in zip(made, values, strict=True):
        p.grad = value
    if group is not None:
        group.state = State.REDUCED
    return made, group


def place(made: list[Any]) -> Group:
    layout = plan([(str(i), p.array) for i, p in enumerate(made)], 1 << 20)
    group = Group(layout, of(made[0].array).xp.zeros(layout.size, layout.dtype))
    for slot in layout.slots:
        p = made[int(slot.name)]
        p.placement = Placement(group, slot, wrap, weakref.ref(p))
    return group


def host(tensors: list[Any]) -> list[np.ndarray]:
    return [t.detach().cpu().numpy().copy() for t in tensors]


def gradients(made: list[Any]) -> list[np.ndarray]:
    return host([p.grad for p in made])


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """But for the order in which the host's compiled sums add up."""
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        precision = 4 * np.finfo(mine.dtype).eps
        np.testing.assert_allclose(mine, theirs, rtol=precision, atol=precision)


def gaps(group: Group) -> np.ndarray:
    """What no slot covers."""
    whole = of(group.flat).to_host(group.flat).copy()
    covered = np.zeros(whole.size, bool)
    for slot in group.layout.slots:
        covered[slot.offset:slot.offset + slot.size] = True
    return whole[~covered]


def nothing_crossed() -> bool:
    return not (transfers.from_host or transfers.to_host or transfers.scalars)


flat_or_not = pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])


@flat_or_not
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64"])
@pytest.mark.parametrize("p", [2.0, 1.0, 3.0, math.inf, 0.0])
def test_a_clip_does_what_the_hosts_does_and_reads_nothing(p: float, dtype: str, flat: bool) -> None:
    found = []
    for device in ("cpu", "strict"):
        made, _ = parameters(device, dtype, flat=flat)
        transfers.reset()
        norm = clip_grad_norm_(made, 0.7, p)
        assert nothing_crossed()
        assert norm.device.type == device and norm.ndim == 0
        found.append([*host([norm]), *gradients(made)])
    assert found[0][0] > 0.7
    same(found[1], found[0])


OPTIMIZERS: list[Callable[[Any], Any]] = [
    lambda p: optim.Adam(p, lr=0.1, eps=1e-3), lambda p: optim.AdamW(p, lr=0.1, eps=1e-3, amsgrad=True, maximize=True),
    lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.SGD(p, lr=0.1, maximize=True, weight_decay=0.1),
    lambda p: optim.Adagrad(p, lr=0.1, eps=1e-3, maximize=True),
    lambda p: optim.RMSprop(p, lr=0.1, eps=1e-3, centered=True)]


@flat_or_not
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adam", "amsgrad max", "sgd", "sgd max", "adagrad", "rmsprop"])
def test_the_optimizer_applies_what_is_pending(optimizer: Callable[[Any], Any], dtype: str, flat: bool) -> None:
    found = []
    for device in ("cpu", "strict"):
        made, group = parameters(device, dtype, flat=flat)
        step = optimizer(made)
        step.step()
        if group is not None:
            group.state = State.REDUCED
        transfers.reset()
        clip_grad_norm_(made, 0.5)
        assert group is None or group.factor != 1
        step.step()
        assert nothing_crossed()
        assert not (flat and device == "strict") or isinstance(group.factor, DeviceFactor)
        found.append([*host(made), *gradients(made)])
    same(found[1], found[0])


def test_a_factor_of_a_device_is_equal_to_itself_alone() -> None:
    _, group = parameters("strict")
    factor = clip_factor(0.1, group.flat[:1].reshape(()), group.flat)
    assert isinstance(factor, DeviceFactor) and factor != 1 and factor not in (0.1, 1.0, DeviceFactor(factor.array))
    assert {factor: "a key"}[factor] == "a key"
    assert operand(factor) is factor.array and operand(0.5, -1.0) == -0.5
    assert operand(factor, -1.0).item() == -factor.array.item()


@flat_or_not
@pytest.mark.parametrize(("value", "expected"), [(math.nan, math.nan), (math.inf, 0.0)])
def test_a_norm_that_is_not_finite(value: float, expected: float, flat: bool) -> None:
    made, group = parameters("strict", flat=flat)
    made[1].grad[7] = value
    norm = clip_grad_norm_(made, 1.0)
    assert not math.isfinite(norm.item())
    found = gradients(made)
    for position, each in enumerate(found):
        each = np.delete(each, 7) if position == 1 else each
        np.testing.assert_array_equal(each, np.full_like(each, expected))
    assert np.isnan(found[1][7])
    if group is None:
        return
    assert (gaps(group) == 0).all()  # or no later norm would be finite
    for p in made:
        p.grad = None
    made[0].grad = dg.ones(3, 5, device="strict")
    group.state = State.REDUCED
    assert clip_grad_norm_(made, 1.0).item() == pytest.approx(math.sqrt(15))
    assert get_grad_norms([made])[0].item() == pytest.approx(1.0, rel=1e-5)


def test_what_is_added_to_clipped_gradients_is_added_to_the_clipped_ones() -> None:
    found = []
    for device in ("cpu", "strict"):
        made, group = parameters(device)
        clip_grad_norm_(made, 0.5)
        sum((p * p).sum() for p in made).backward()  # a round of its own, which joins what was there
        group.end_round()
        found.append([*gradients(made), gaps(group)])
    same(found[1], found[0])
    assert (found[1][-1] == 0).all()


def test_a_nan_that_is_pending_when_more_is_added() -> None:
    made, group = parameters("strict")
    made[3].grad.fill_(math.nan)
    for looked in (True, False):
        group.exposed = looked
        clip_grad_norm_(made, 0.5)
        sum((p * p).sum() for p in made).backward()
        group.end_round()
        assert np.isnan(gradients(made)[0]).all() and (gaps(group) == 0).all()


@flat_or_not
def test_only_a_few_are_clipped(flat: bool) -> None:
    found = []
    for device in ("cpu", "strict"):
        made, _ = parameters(device, flat=flat)
        transfers.reset()
        norm = clip_grad_norm_(made[1:3], 0.5)
        assert nothing_crossed()
        found.append([*host([norm]), *gradients(made)])
    same(found[1], found[0])


@flat_or_not
def test_two_clips_and_a_look_between_them(flat: bool) -> None:
    found = []
    for device in ("cpu", "strict"):
        made, _ = parameters(device, flat=flat)
        transfers.reset()
        norms = [clip_grad_norm_(made, 5.0)]
        assert made[0].grad is not None
        norms += [clip_grad_norm_(made, 3.0), clip_grad_norm_(made, 2.0)]
        clip_grad_value_(made, 0.01)
        norms.append(clip_grad_norm_(made, 1e9))
        assert nothing_crossed()
        found.append([*host(norms), *gradients(made)])
    same(found[1], found[0])


def test_gradients_that_were_handed_out_and_written_to_are_summed_anew() -> None:
    made, group = parameters("strict")
    group.remember()
    group.note_partials(group.block_partials(group.placements, 2))
    before = clip_grad_norm_(made, math.inf).item()
    assert before > 0 and group.partials is not None
    made, group = parameters("strict")
    group.remember()
    group.note_partials(group.block_partials(group.placements, 2))
    for p in made:
        p.grad.data.mul_(2)
    transfers.reset()
    norm = clip_grad_norm_(made, math.inf)
    assert nothing_crossed() and norm.item() == pytest.approx(2 * before)


def test_not_finite_is_an_error_on_request_which_reads_the_norm() -> None:
    made, _ = parameters("strict")
    transfers.reset()
    clip_grad_norm_(made, 1.0, error_if_nonfinite=True)
    assert transfers.scalars == 1
    made[0].grad[0, 0] = math.nan
    before = gradients(made)
    with pytest.raises(RuntimeError, match="norm of the gradients is nan"):
        clip_grad_norm_(made, 1.0, error_if_nonfinite=True)
    same(gradients(made), before)


@pytest.mark.parametrize("norm", [2.0, np.float64(2.0), "host", "strict"])
def test_a_norm_that_is_given(norm: Any) -> None:
    given = dg.tensor(2.0, device=norm.replace("host", "cpu")) if isinstance(norm, str) else norm
    made, _ = parameters("strict")
    expected = [g * np.float32(0.5 / (2 + 1e-6)) for g in gradients(made)]
    transfers.reset()
    clip_grads_with_norm_(made, 0.5, given)
    assert nothing_crossed()
    same(gradients(made), expected)


@pytest.mark.parametrize("first", ["cpu", "strict"])
@flat_or_not
def test_gradients_of_host_and_device_together(flat: bool, first: str) -> None:
    second = "strict" if first == "cpu" else "cpu"
    alone = [parameters("cpu", flat=flat)[0], parameters("cpu", "float64", 0.1, flat=flat)[0]]
    mixed = [parameters(first, flat=flat)[0], parameters(second, "float64", 0.1, flat=flat)[0]]
    expected = clip_grad_norm_([p for each in alone for p in each], 0.5)
    found = clip_grad_norm_([p for each in mixed for p in each], 0.5)
    assert found.device.type == first and found.dtype == expected.dtype
    assert found.item() == pytest.approx(expected.item(), rel=1e-14)
    for mine, theirs in zip(mixed, alone, strict=True):
        same(gradients(mine), gradients(theirs))
        step, other = optim.Adam(mine), optim.Adam(theirs)
        step.step(), other.step()
        same(host(mine), host(theirs))


def test_one_optimizer_of_parameters_on_host_and_device() -> None:
    alone = [parameters("cpu")[0], parameters("cpu")[0]]
    mixed = [parameters("cpu")[0], parameters("strict")[0]]
    for pair in (alone, mixed):
        everything = [p for each in pair for p in each]
        clip_grad_norm_(everything, 0.5)
        optim.Adam(everything, lr=0.1).step()
    for mine, theirs in zip(mixed, alone, strict=True):
        same(host(mine), host(theirs))
