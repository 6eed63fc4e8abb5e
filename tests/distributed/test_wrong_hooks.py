"""Comm hooks that are wrong on one rank: an error on every rank within the same backward, and training goes on."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, simulate
from distgrad.comm import deadline
from distgrad.distributed import DataParallel, mean_hook
from distgrad.distributed.hooks import PowerSGDState, between_nodes, bf16_compress_hook, bf16_compress_wrapper
from distgrad.errors import CollectiveMismatchError, RankFailedError
from distgrad.flat import GRID
from tests.distributed.hook_cases import (
    WRONG,
    Given,
    assert_alike,
    reduced,
    returns_nothing,
    sends_too_little,
    sound,
)
from tests.distributed.models import parameters_of

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hangs is to be heard of soon."""
    monkeypatch.setattr(deadline, "config", deadline.config.__class__(soft_timeout=None, hard_timeout=10.0))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda hook: hook.__name__)
@pytest.mark.parametrize(("nodes", "between", "wrap"), [
    ([3], False, None), ([2, 2], True, None), ([1, 2], True, bf16_compress_wrapper)], ids=["mpi", "lanes", "bf16"])
@pytest.mark.parametrize("which", [0, 3, 5, None], ids="bucket {}".format)
def test_a_wrong_hook_is_told_on_every_rank_and_training_goes_on(
        wrong: Any, nodes: list[int], between: bool, wrap: Any, which: int | None) -> None:
    """On one rank only, in the first, a middle, the last bucket, or all: an error everywhere within that backward."""
    ranks = sum(nodes)
    guilty = ranks - nodes[-1]  # it sends, where only one rank of the node does
    if wrap is not None and wrong is sends_too_little:
        pytest.skip("refused by the wrapper, on this rank alone")

    def body(rank: int) -> Any:
        step = 0

        def hook(bucket: Any, comm: Any) -> Any:
            at_fault = step == 1 and rank == guilty and which in (None, bucket.index)
            return (wrong if at_fault else sound)(bucket, comm)

        if between:
            between_nodes(hook)
        model = DataParallel(Given((11 * GRID,), (GRID,)), hook=hook if wrap is None else wrap(hook),
                             bucket_bytes=2 * GRID * 4)
        found: list[Any] = []
        for step in range(4):
            given = np.full(11 * GRID, 8.0 * (rank + step), "f4"), np.full(GRID, 3.0, "f4")
            try:
                found.append(reduced(model, *given))
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                found.append(error)
        return model.transport, found

    results = simulate(ranks, nodes)(body)
    kind, text = WRONG[wrong]
    for rank, (transport, found) in enumerate(results):
        assert transport == ("lanes" if between else "mpi")
        error = found[1]
        assert isinstance(error, kind if rank == guilty else (kind, RankFailedError)), error
        assert re.search(text, str(error)), error
        if kind is CollectiveMismatchError:  # all of them raised it, and whose fault it is they cannot know
            assert "comm hook" in str(error) or isinstance(error, kind)
        elif rank != guilty:
            assert error.rank == guilty and f"raised on rank {guilty}" in str(error) and "comm hook" in str(error)
        for step in (0, 2, 3):
            first, second = found[step]
            np.testing.assert_array_equal(first, 8.0 * (step + (ranks - 1) / 2))
            np.testing.assert_array_equal(second, 3.0)


def test_a_hook_that_is_wrong_on_all_ranks_raises_the_same_on_all() -> None:
    for hook in (returns_nothing, between_nodes(lambda bucket, comm: returns_nothing(bucket, comm))):
        def body(rank: int, hook: Any = hook) -> str:
            model = DataParallel(nn.Linear(2, 1), hook=hook)
            with pytest.raises((TypeError, RankFailedError), match="returns a Work") as caught:
                model(distgrad.ones(1, 2)).sum().backward()
            return type(caught.value).__name__

        assert simulate(4, [2, 2])(body).count("TypeError") >= 2


def test_ranks_that_send_more_than_others_do_not_hang() -> None:
    """One rank makes three collectives where the others make one."""
    def body(rank: int) -> None:
        def hook(bucket: Any, comm: Any) -> Any:
            for _ in range(2 if rank == 1 else 0):
                bucket.submit(comm.allreduce, bucket.send, bucket.recv)
            return bucket.submit(comm.allreduce, bucket.send, bucket.recv)

        model = DataParallel(Given((5 * GRID,)), hook=hook, bucket_bytes=1)
        for _ in range(2):
            kind = CollectiveMismatchError if rank == 1 else RankFailedError
            with pytest.raises(kind, match="different collectives"):
                reduced(model, np.ones(5 * GRID, "f4"))

    simulate(3)(body)


def test_submitting_outside_of_the_hook() -> None:
    kept: list[Any] = []

    def hook(bucket: Any, comm: Any) -> Any:
        kept.append(bucket)
        return mean_hook(bucket, comm)

    model = DataParallel(nn.Linear(2, 1), hook=hook)
    model(distgrad.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match="inside the hook"):
        kept[0].submit(print)
    model.close()


def test_a_backward_that_raises_while_a_hook_is_there() -> None:
    def body(rank: int, hook: Any) -> Any:
        model = DataParallel(nn.Sequential(nn.Linear(2, 70), nn.Linear(70, 70)), hook=hook, bucket_bytes=1)

        def fails(g: Any) -> None:
            raise KeyError("mine")

        handle = model.module[0].weight.register_hook(fails) if rank == 1 else None
        with pytest.raises((KeyError, RankFailedError), match="mine"):
            model(distgrad.ones(1, 2)).sum().backward()
        if handle is not None:
            handle.remove()
        model.zero_grad()
        model(distgrad.full((1, 2), float(rank))).sum().backward()
        return parameters_of(model, grad=True)

    for hook in (bf16_compress_hook, sound, PowerSGDState(start_powerSGD_iter=1)):
        assert_alike(simulate(4, [2, 2])(lambda rank, h=hook: body(rank, h)))


def test_one_rank_that_raises_in_a_backward_through_two_models_leaves_nobody_waiting() -> None:
    def body(rank: int) -> None:
        first, second = DataParallel(nn.Linear(3, 3)), DataParallel(nn.Linear(3, 3))

        def refuse(g: Any) -> None:
            raise ValueError("mine")

        for step in range(2):
            y = second(first(distgrad.ones(2, 3)))
            if rank == 1 and step == 0:
                y.register_hook(refuse)
            if step == 0:
                with pytest.raises(ValueError if rank == 1 else RankFailedError, match="mine"):
                    y.sum().backward()
            else:
                y.sum().backward()
            first.zero_grad()
            second.zero_grad()

    simulate(3)(body)
