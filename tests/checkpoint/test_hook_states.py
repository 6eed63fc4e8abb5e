"""Comm hooks that remember: their memory is part of a checkpoint, and compressed training resumes to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distgrad import simulate
from distgrad.checkpoint import Checkpointer, PerRank, load
from distgrad.distributed import PowerSGDState, world
from distgrad.errors import CheckpointError
from tests.checkpoint.training import Training, bits

NODES = [2, 2]


def training(**options: Any) -> tuple[Training, PowerSGDState]:
    hook = PowerSGDState(start_powerSGD_iter=1, min_compression_rate=1, **options)
    made = Training(hook=hook, dropout=0.0)
    made.state["hook"] = PerRank(hook)
    return made, hook


def test_error_feedback_and_factors_come_back(tmp_path: Path) -> None:
    def first(rank: int) -> Any:
        made, hook = training()
        made.run(4)
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(4, made.state, asynchronous=True)
            made.run(4)
        kept = [array for bucket in hook.state_dict().values() for array in bucket["matrices"]]
        assert all({"q", "error"} == set(arrays) for arrays in kept)
        assert any(world().allgather_bytes(bytes(len(kept)))), "some lanes carry matrices"
        return bits(made)

    def second(rank: int, with_hook: bool) -> Any:
        made, _ = training()
        if not with_hook:
            del made.state["hook"]
        load(tmp_path / "c", made.state)
        made.run(4)
        return bits(made)

    expected = simulate(4, NODES)(first)
    for mine, theirs in zip(simulate(4, NODES)(lambda rank: second(rank, True)), expected, strict=True):
        for name in theirs:
            np.testing.assert_array_equal(np.asarray(mine[name]), np.asarray(theirs[name]), err_msg=name)
    without = simulate(4, NODES)(lambda rank: second(rank, False))
    assert any((without[0][name] != expected[0][name]).any() for name in expected[0] if name.startswith("model")), \
        "what is kept matters"


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    def first(rank: int) -> None:
        made, _ = training()
        made.run(3)
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(3, made.state)

    def wider(rank: int) -> None:
        made, _ = training(matrix_approximation_rank=2)
        load(tmp_path / "c", made.state)
        with pytest.raises(RuntimeError, match="the loaded state of PowerSGD has q of shape"):
            made.run(1)

    def fewer(rank: int) -> None:
        made, _ = training()
        with pytest.raises(CheckpointError, match="saved by 4 ranks"):
            load(tmp_path / "c", made.state)

    simulate(4, NODES)(first)
    simulate(4, NODES)(wider)
    simulate(2, [1, 1])(fewer)
