"""What every rank raised: for tests of what is refused, on all ranks or because of one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, simulate
from distgrad.comm import deadline
from distgrad.distributed import DataParallel
from distgrad.errors import RankFailedError

RANKS = 3
over = pytest.mark.parametrize("transport", ["shared", "wire"])  # a test id "mpi" would be skipped by pytest-mpi


def outcomes(body: Callable[[int], Any], ranks: int = RANKS) -> list[Any]:
    """Every rank's exception, or what it returned. The ranks go on with what they did, and have to stay together."""
    def run(rank: int) -> Any:
        try:
            found = body(rank)
        except Exception as error:
            found = error
        model = DataParallel(nn.Linear(2, 1))
        model(distgrad.full((1, 2), float(rank))).sum().backward()
        np.testing.assert_array_equal(model.weight.grad, (ranks - 1) / 2)
        return found

    return simulate(ranks)(run)


def last_words(body: Callable[[int], Any], ranks: int = RANKS) -> list[BaseException]:
    """Every rank's exception, where ranks do not go on after one."""
    found: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            body(rank)
        except Exception as error:
            found[rank] = error
            raise

    with pytest.raises(Exception):
        simulate(ranks)(run)
    assert sorted(found) == list(range(ranks)), "every rank has an exception"
    return [found[rank] for rank in range(ranks)]


def all_are(found: list[Any], kind: type[BaseException], *words: str) -> None:
    for rank, error in enumerate(found):
        assert type(error) is kind, f"rank {rank}: {error!r}"
        for word in words:
            assert word in str(error), f"rank {rank}: {error}"


def only_rank_1_is_guilty(found: list[Any], kind: type[BaseException], *words: str) -> None:
    """Rank 1 raised, and the others say so, be it that they heard of it from each other."""
    all_are(found[1:2], kind, *words)
    all_are(found[:1] + found[2:], RankFailedError, "rank 1", *words)


def wrap(module: nn.Module, transport: str, **options: Any) -> DataParallel:
    return DataParallel(module, transport=transport.replace("wire", "mpi"), **options)


def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hangs is heard of in seconds."""
    monkeypatch.setattr(deadline, "config", deadline.config.__class__(soft_timeout=60.0, hard_timeout=4.0))
