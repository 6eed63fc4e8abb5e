"""Schedules: the sequence of rates each gives, alone, together and after a resume."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.optim import lr_scheduler as S

N = 14
T = np.arange(N)


def optimizer(groups=1, lr=0.1, **options):
    return optim.SGD([{"params": [nn.Parameter(dg.ones(1))], "lr": lr * (i + 1)} for i in range(groups)],
                     lr=lr, momentum=0.9, **options)


def run(opt, *schedulers, steps=N, key="lr", metrics=None):
    """The first group's value before each step."""
    seen = []
    for i in range(steps):
        seen.append(float(opt.param_groups[0][key]))
        opt.step()
        for scheduler in schedulers:
            scheduler.step(*(() if metrics is None else (metrics[i],)))
    return seen


CLOSED = {
    "step": (lambda o: S.StepLR(o, 4, 0.5), 0.1 * 0.5 ** (T // 4)),
    "milestones": (lambda o: S.MultiStepLR(o, [9, 3, 3], 0.5), 0.1 * 0.5 ** (2 * (T >= 3) + (T >= 9))),
    "exponential": (lambda o: S.ExponentialLR(o, 0.9), 0.1 * 0.9 ** T),
    "exponential to zero": (lambda o: S.ExponentialLR(o, 0.0), 0.1 * (T == 0)),
    "constant": (lambda o: S.ConstantLR(o, 0.25, 5), 0.1 * np.where(T < 5, 0.25, 1)),
    "linear": (lambda o: S.LinearLR(o, 0.2, 0.8, 6), 0.1 * np.where(T < 6, 0.2 + 0.1 * T, 0.8)),
    "linear to zero": (lambda o: S.LinearLR(o, 1.0, 0.0, 6), 0.1 * np.maximum(1 - T / 6, 0)),
    "polynomial": (lambda o: S.PolynomialLR(o, 8, 2.0), 0.1 * np.maximum(1 - T / 8, 0) ** 2),
    "cosine": (lambda o: S.CosineAnnealingLR(o, 5, 0.02), 0.02 + 0.08 * (1 + np.cos(np.pi * T / 5)) / 2),
    "lambda": (lambda o: S.LambdaLR(o, lambda e: 1 / (1 + e)), 0.1 / (1 + T)),
    "multiplicative": (lambda o: S.MultiplicativeLR(o, lambda e: 0.5 if e % 2 else 1.0), 0.1 * 0.5 ** ((T + 1) // 2)),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name) -> None:
    make, expected = CLOSED[name]
    opt = optimizer()
    scheduler = make(opt)
    np.testing.assert_allclose(run(opt, scheduler), expected, rtol=1e-12, atol=1e-15)
    assert scheduler.last_epoch == N and scheduler.get_last_lr() == [opt.param_groups[0]["lr"]]
    assert opt.param_groups[0]["initial_lr"] == 0.1


@pytest.mark.parametrize("name", CLOSED)
def test_resuming(name) -> None:
    make, expected = CLOSED[name]
    opt = optimizer()
    scheduler = make(opt)
    run(opt, scheduler, steps=6)
    states = copy.deepcopy((opt.state_dict(), json.loads(json.dumps(scheduler.state_dict()))))
    again = optimizer()
    resumed = make(again)
    again.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    np.testing.assert_allclose(run(again, resumed, steps=N - 6), expected[6:], rtol=1e-12, atol=1e-15)


def test_going_on_from_an_epoch() -> None:
    opt = optimizer()
    run(opt, S.ExponentialLR(opt, 0.5), steps=3)
    S.ExponentialLR(opt, 0.5, last_epoch=3)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 ** 4)
    with pytest.raises(KeyError):
        S.ExponentialLR(optimizer(), 0.5, last_epoch=3)


# Sequences that torch 2.13 gives.
ONE_CYCLE = [0.04, 0.52, 1.0, 0.950484632, 0.8117456539, 0.6112620219, 0.3887419781, 0.1882583461, 0.04951936799, 4e-06]
ONE_CYCLE_MOMENTUM = [0.95, 0.9, 0.85, 0.8549515566, 0.8688255099, 0.8888739533, 0.9111260467, 0.9311744901,
                      0.9450484434, 0.95]
THREE_PHASES = [0.04, 0.52, 1.0, 0.52, 0.04, 0.0320008, 0.0240016, 0.0160024, 0.0080032, 4e-06]
SEQUENTIAL = [0.01, 0.0325, 0.055, 0.0775, 0.1, 0.09330127019, 0.075, 0.05, 0.025, 0.006698729811, 0.0]
RESTARTS = [0.1, 0.0775, 0.0325, 0.1, 0.09397114317, 0.0775, 0.055, 0.0325, 0.01602885683, 0.1, 0.09846666218,
            0.09397114317]
CHAINED = [0.05, 0.045, 0.0405, 0.0729, 0.06561, 0.059049, 0.0531441]
PLATEAU = [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025, 0.02, 0.02]


def test_one_cycle() -> None:
    for key, expected in (("lr", ONE_CYCLE), ("momentum", ONE_CYCLE_MOMENTUM)):
        opt = optimizer()
        scheduler = S.OneCycleLR(opt, 1.0, total_steps=10)
        np.testing.assert_allclose(run(opt, scheduler, steps=10, key=key), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="cycle of 10"):
        scheduler.step()
    opt = optimizer()
    phases = S.OneCycleLR(opt, 1.0, epochs=5, steps_per_epoch=2, three_phase=True, anneal_strategy="linear")
    np.testing.assert_allclose(run(opt, phases, steps=10), THREE_PHASES, rtol=1e-9)
    adam = optim.Adam([nn.Parameter(dg.ones(1))])
    S.OneCycleLR(adam, 1.0, total_steps=10)
    assert adam.param_groups[0]["betas"] == (0.95, 0.999)


def test_sequences_and_chains() -> None:
    opt = optimizer()
    scheduler = S.SequentialLR(opt, [S.LinearLR(opt, 0.1, 1.0, 4), S.CosineAnnealingLR(opt, 6)], [4])
    assert scheduler.get_last_lr() == [pytest.approx(0.01)]
    np.testing.assert_allclose(run(opt, scheduler, steps=11), SEQUENTIAL, rtol=1e-9, atol=1e-15)
    opt = optimizer()
    np.testing.assert_allclose(run(opt, S.CosineAnnealingWarmRestarts(opt, 3, 2, 0.01), steps=12), RESTARTS, rtol=1e-9)
    opt = optimizer()
    chain = S.ChainedScheduler([S.ConstantLR(opt, 0.5, 3), S.ExponentialLR(opt, 0.9)])
    np.testing.assert_allclose(run(opt, chain, steps=7), CHAINED, rtol=1e-9)


@pytest.mark.parametrize("make", [
    lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, 1.0, 4), S.StepLR(o, 3)], [4]),
    lambda o: S.ChainedScheduler([S.ConstantLR(o, 0.5, 3), S.ExponentialLR(o, 0.9)])])
def test_resuming_composed_schedules(make) -> None:
    opt, whole = optimizer(), optimizer()
    expected = run(whole, make(whole))
    scheduler = make(opt)
    run(opt, scheduler, steps=6)
    again = optimizer()
    resumed = make(again)
    again.load_state_dict(opt.state_dict())
    resumed.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    np.testing.assert_allclose(run(again, resumed, steps=N - 6), expected[6:], rtol=1e-12)


def test_plateau() -> None:
    metrics = [1, *[0.9] * 11]
    opt = optimizer()
    scheduler = S.ReduceLROnPlateau(opt, patience=1, cooldown=1, factor=0.5, min_lr=0.02)
    np.testing.assert_allclose(run(opt, scheduler, steps=12, metrics=metrics), PLATEAU, rtol=1e-9)
    assert scheduler.best == 0.9
    rising = optimizer()
    better = S.ReduceLROnPlateau(rising, mode="max", patience=0, threshold=0.5, threshold_mode="abs")
    np.testing.assert_allclose(run(rising, better, steps=4, metrics=[dg.tensor(1.0), 1.6, 1.7, 0.0]),
                               [0.1, 0.1, 0.1, 0.01])
    later = S.ReduceLROnPlateau(optimizer())
    later.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    assert later.best == 0.9 and later.last_epoch == 12
    nan = optimizer()
    run(nan, S.ReduceLROnPlateau(nan, patience=0), steps=1, metrics=[math.nan])
    assert nan.param_groups[0]["lr"] == pytest.approx(0.01)


def test_two_schedules_on_one_optimizer() -> None:
    opt = optimizer()
    seen = run(opt, S.LinearLR(opt, 0.1, 1.0, 5), S.StepLR(opt, 6, 0.5))
    np.testing.assert_allclose(seen, 0.1 * np.minimum(0.1 + 0.18 * T, 1) * 0.5 ** (T // 6), rtol=1e-12)


def test_groups_and_a_rate_changed_by_hand() -> None:
    opt = optimizer(groups=2)
    scheduler = S.ExponentialLR(opt, 0.5)
    run(opt, scheduler, steps=2)
    assert scheduler.get_last_lr() == [pytest.approx(0.025), pytest.approx(0.05)]
    opt.param_groups[0]["lr"] = 1.0
    run(opt, scheduler, steps=1)
    assert scheduler.get_last_lr() == [0.5, pytest.approx(0.025)]
    both = optimizer(groups=2)
    S.LambdaLR(both, [lambda e: 1.0, lambda e: 0.5])
    assert [g["lr"] for g in both.param_groups] == [0.1, 0.1]


def test_a_users_schedule() -> None:
    class Harmonic(S.LRScheduler):
        def get_lr(self):
            return [base / (1 + self.last_epoch) for base in self.base_lrs]

    opt = optimizer()
    np.testing.assert_allclose(run(opt, Harmonic(opt)), 0.1 / (1 + T))


def test_the_wrong_order_warns() -> None:
    opt = optimizer()
    scheduler = S.StepLR(opt, 3)
    with pytest.warns(UserWarning, match="first"):
        scheduler.step()


@pytest.mark.parametrize(("error", "act"), [
    (TypeError, lambda o: S.StepLR(3, 1)), (TypeError, lambda o: S.ReduceLROnPlateau(3)),
    (ValueError, lambda o: S.LinearLR(o, 0.0)), (ValueError, lambda o: S.LinearLR(o, end_factor=2.0)),
    (ValueError, lambda o: S.ConstantLR(o, 2.0)), (ValueError, lambda o: S.LambdaLR(o, [abs, abs])),
    (ValueError, lambda o: S.CosineAnnealingWarmRestarts(o, 0)), (ValueError, lambda o: S.OneCycleLR(o, 1.0)),
    (ValueError, lambda o: S.OneCycleLR(o, 1.0, total_steps=0)),
    (ValueError, lambda o: S.OneCycleLR(o, 1.0, total_steps=5, pct_start=2)),
    (ValueError, lambda o: S.OneCycleLR(o, 1.0, total_steps=5, anneal_strategy="sine")),
    (ValueError, lambda o: S.OneCycleLR(optim.Adagrad([nn.Parameter(dg.ones(1))]), 1.0, total_steps=5)),
    (ValueError, lambda o: S.SequentialLR(o, [S.StepLR(o, 1)], [3])), (ValueError, lambda o: S.SequentialLR(o, [], [])),
    (ValueError, lambda o: S.SequentialLR(o, [S.StepLR(optimizer(), 1)], [])),
    (ValueError, lambda o: S.ChainedScheduler([])),
    (ValueError, lambda o: S.ChainedScheduler([S.StepLR(o, 1), S.StepLR(optimizer(), 1)])),
    (ValueError, lambda o: S.ReduceLROnPlateau(o, factor=1.0)),
    (ValueError, lambda o: S.ReduceLROnPlateau(o, mode="low")),
    (NotImplementedError, lambda o: S.LRScheduler(o)),
])
def test_refusals(error, act) -> None:
    with pytest.raises(error):
        act(optimizer())
