"""What ranks tell each other with every backward: NaN, stopping, running out of data, options, and who is slow."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim
from distgrad.distributed import (
    STOP_SIGNALS,
    DataParallel,
    Join,
    ZeroRedundancyOptimizer,
    simulate,
    stop_on_signals,
)
from distgrad.errors import RankFailedError
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed.models import flat

pytestmark = pytest.mark.timeout(60)
TRANSPORTS = [pytest.param("shared", id="shared"), pytest.param("mpi", id="wire")]  # an id "mpi" would be skipped


def linear(**options: Any) -> DataParallel:
    distgrad.manual_seed(0)
    return DataParallel(nn.Linear(3, 2), **options)


def backward(model: Any, value: float) -> None:
    (model(distgrad.ones(1, 3)) * value).sum().backward()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_whose_gradient_is_not_finite_is_skipped_on_all_ranks(transport: str, bad: float) -> None:
    def body(rank: int) -> tuple[Any, ...]:
        model = linear(transport=transport, nonfinite="skip_step")
        optimizer = optim.Adam(model.parameters())
        before = flat(model)
        backward(model, bad if rank == 1 else 1.0)
        gone = [p.grad is None for p in model.parameters()]
        norm = float(clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        kept = np.array_equal(flat(model), before)
        backward(model, 1.0)
        optimizer.step()
        return all(gone), norm, kept, model.skipped_steps, flat(model)

    results = simulate(3)(body)
    for gone, norm, kept, skipped, after in results:
        assert gone and norm == 0 and kept and skipped == 1
        np.testing.assert_array_equal(after, results[0][-1])
        assert np.isfinite(after).all()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_gradient_that_is_not_finite_raises_on_all_ranks_and_names_where(transport: str) -> None:
    def body(rank: int) -> float:
        model = linear(transport=transport, nonfinite="raise")
        with pytest.raises(RuntimeError, match=r"not finite.*'weight'"):
            backward(model, math.nan if rank == 2 else 1.0)
        model.zero_grad()
        backward(model, 1.0)
        return float(model.weight.grad.sum())

    assert simulate(3)(body) == [6.0] * 3


def test_by_default_what_is_not_finite_goes_on() -> None:
    def body(rank: int) -> bool:
        model = linear()
        backward(model, math.nan if rank else 1.0)
        return bool(np.isnan(flat(model, grad=True)).all())

    assert all(simulate(2)(body))


def test_large_squares_are_no_reason_to_skip() -> None:
    def body(rank: int) -> tuple[int, bool]:
        model = DataParallel(nn.Linear(3, 2).double(), nonfinite="skip_step")
        (model(distgrad.ones(1, 3, dtype="float64")) * 1e200).sum().backward()
        return model.skipped_steps, model.weight.grad is not None

    assert simulate(2)(body) == [(0, True)] * 2


def test_one_rank_has_the_policy_too() -> None:
    model = linear(nonfinite="skip_step")
    backward(model, math.nan)
    assert model.skipped_steps == 1 and model.weight.grad is None


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_all_ranks_stop_after_the_same_backward(transport: str) -> None:
    def body(rank: int) -> list[bool]:
        model = linear(transport=transport)
        seen = []
        for step in range(4):
            if rank == 1 and step == 2:
                model.request_stop()
            backward(model, 1.0)
            seen.append(model.stop_requested)
        return seen

    assert simulate(3)(body) == [[False, False, True, True]] * 3


@pytest.mark.parametrize("options", ["", ", nonfinite='raise'"])
def test_a_signal_asks_to_stop_and_the_second_one_ends(options: str) -> None:
    program = f"""
import os, signal, distgrad
from distgrad import nn
from distgrad.distributed import DataParallel, stop_on_signals
stop_on_signals()
model = DataParallel(nn.Linear(3, 2){options})
for step in range(3):
    if step == 1:
        os.kill(os.getpid(), signal.SIGUSR2)
    model(distgrad.ones(1, 3)).sum().backward()
    print(model.stop_requested, flush=True)
os.kill(os.getpid(), signal.SIGUSR2)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, cwd=os.getcwd())
    assert ended.stdout.split() == ["False", "True", "True"], ended.stderr
    assert ended.returncode == -signal.SIGUSR2


def test_on_simulated_ranks_signals_stay_as_they_are() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    simulate(2)(lambda rank: stop_on_signals())
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_work_is_timed_without_the_waiting() -> None:
    def body(rank: int) -> list[float]:
        model = linear()
        backward(model, 1.0)
        if rank == 1:
            time.sleep(0.3)
        backward(model, 1.0)
        return model.work_seconds

    results = simulate(3)(body)
    assert results[0] == results[1] == results[2]
    assert results[0][1] >= 0.3 > max(results[0][0], results[0][2])


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_options_that_differ_between_ranks_are_found(kind: str) -> None:
    def body(rank: int) -> str:
        model = linear()
        optimizer: Any = optim.SGD(model.parameters(), lr=0.1) if kind == "replicated" else \
            ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1)
        backward(model, 1.0)
        if rank == 1:
            optimizer.param_groups[0]["lr"] = 0.2
        optimizer.step()
        with pytest.raises(RankFailedError, match="options of the last optimizer step") as caught:
            backward(model, 1.0)
        return str(caught.value)

    assert len(simulate(2)(body)) == 2


def data(ranks: int) -> tuple[np.ndarray, list[slice]]:
    x = np.random.default_rng(5).standard_normal((30, 3)).astype("float32")
    ends = {2: [0, 9, 30], 3: [0, 4, 22, 30], 4: [0, 0, 2, 12, 30]}[ranks]
    return x, [slice(a, b) for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_with_less_data_take_part_until_the_last_one_ends(ranks: int, transport: str, kind: str) -> None:
    """Batches of 4 rows: the steps' means are those of one process that sees all ranks' batches together."""
    x, shards = data(ranks)
    batches = [[x[s][i:i + 4] for i in range(0, s.stop - s.start, 4)] for s in shards]

    def loss(model: Any, rows: np.ndarray) -> Any:
        return (model(distgrad.tensor(rows)) ** 2).mean()

    def body(rank: int) -> tuple[np.ndarray, int]:
        model = linear(transport=transport)
        optimizer: Any = optim.Adam(model.parameters(), lr=0.05) if kind == "replicated" else \
            ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.05)
        rounds = 0

        def update() -> None:
            nonlocal rounds
            rounds += any(p.grad is not None for p in model.parameters())
            clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()

        def without_data() -> None:
            model.backward(None, weight=0)
            update()

        with Join(model, without_data):
            for rows in batches[rank]:
                model.backward(loss(model, rows), weight=len(rows))
                update()
        return flat(model), rounds

    distgrad.manual_seed(0)
    alone = nn.Linear(3, 2)
    optimizer = optim.Adam(alone.parameters(), lr=0.05)
    steps = max(len(each) for each in batches)
    for step in range(steps):
        rows = np.concatenate([each[step] for each in batches if step < len(each)])
        loss(alone, rows).backward()
        clip_grad_norm_(alone.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for found, rounds in simulate(ranks)(body):
        assert rounds == steps
        np.testing.assert_allclose(found, flat(alone), rtol=2e-4, atol=2e-6)


def test_join_says_what_it_takes() -> None:
    with pytest.raises(TypeError, match="DataParallel"):
        Join(nn.Linear(2, 2), lambda: None)  # type: ignore[arg-type]

    def body(rank: int) -> None:
        model = linear()
        join = Join(model, lambda: model.backward(None, weight=0))
        with pytest.raises(RankFailedError, match=r"loss.backward\(\)"), join:
            if rank == 0:
                backward(model, 1.0)

    simulate(2)(body)


def test_an_error_in_the_loop_passes_through_join() -> None:
    model = linear()
    with pytest.raises(KeyError), Join(model, lambda: pytest.fail("it must not be called")):
        raise KeyError("mine")
