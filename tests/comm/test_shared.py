"""Memory that ranks share: counters, waiting, and what happens when somebody does not come."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from distgrad.comm import run_ranks
from distgrad.comm import shared as module
from distgrad.comm.shared import NodeMemory, node_memory
from distgrad.errors import CommError, RankFailedError


def nothing() -> None:
    """No work between two looks."""


def memory(comm: Any, nbytes: int = 64) -> NodeMemory:
    found = node_memory(comm, nbytes)
    assert isinstance(found, NodeMemory)
    return found


def test_every_rank_sees_every_block() -> None:
    def body(comm: Any) -> list[int]:
        mine = memory(comm)
        mine.blocks[comm.rank][:] = comm.rank + 1
        mine.raise_counter(0, 1)
        mine.wait(0, 1, "the others", nothing)
        return [int(block[0]) for block in mine.blocks]

    assert run_ranks(3, body) == [[1, 2, 3]] * 3


def test_waiting_does_the_work_that_others_wait_for() -> None:
    def body(comm: Any) -> int:
        mine = memory(comm)
        calls = 0

        def between() -> None:
            nonlocal calls
            calls += 1
            mine.raise_counter(0, 1)

        mine.wait(0, 1, "everybody's work", between)
        return calls

    assert all(calls >= 1 for calls in run_ranks(3, body))


def test_a_rank_that_ended_is_named_at_once() -> None:
    def body(comm: Any) -> None:
        mine = memory(comm)
        if comm.rank == 1:
            raise KeyError("mine")
        with pytest.raises(RankFailedError, match="rank 1"):
            mine.wait(0, 1, "the others", nothing)

    with pytest.raises(KeyError):
        run_ranks(3, body)


def test_a_wait_past_the_hard_limit_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from distgrad.comm import deadline

    monkeypatch.setattr(deadline, "config", deadline.config.__class__(soft_timeout=0.05, hard_timeout=0.2))
    release = threading.Event()

    def body(comm: Any) -> None:
        mine = memory(comm)
        if comm.rank == 1:
            release.wait(10)
            return
        mine.raise_counter(0, 1)
        try:
            with pytest.raises(CommError, match=r"for rank\(s\) 1, which is past the hard limit"):
                mine.wait(0, 1, "the others", nothing)
        finally:
            release.set()

    run_ranks(2, body)


def test_processors_with_a_weak_store_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.platform, "machine", lambda: "aarch64")
    reasons = run_ranks(2, lambda comm: node_memory(comm, 64))
    assert all(isinstance(reason, str) and "aarch64" in reason for reason in reasons)


def test_a_segment_can_be_opened_by_its_handle() -> None:
    import os

    mine, descriptor = module._allocate(8192)
    theirs = module._open(8192, os.getpid(), descriptor)
    mine[100] = 7
    assert theirs[100] == 7
    with pytest.raises(OSError, match="not the memory"):
        module._open(4096, os.getpid(), descriptor)
    os.close(descriptor)
    np.testing.assert_array_equal(mine, theirs)
