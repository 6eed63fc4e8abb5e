"""Real ranks: checkpoints of sharded states, written by processes that look at one folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import checkpoint, nn
from distgrad.checkpoint import Checkpointer
from distgrad.distributed import world
from distgrad.errors import CheckpointError
from tests.checkpoint.training import Training, bits

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """The same new folder on all ranks."""
    comm = world()
    made = tempfile.mkdtemp(prefix="distgrad-test-") if comm.rank == 0 else ""
    yield Path(comm.broadcast_bytes(made.encode()).decode()) / "c"
    comm.barrier()
    if made:
        shutil.rmtree(made)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_there_and_back(sharded: bool, asynchronous: bool, folder: Path) -> None:
    training = Training(sharded)
    with Checkpointer(folder, keep=2) as checkpoints:
        for step in (1, 2, 3):
            training.step()
            checkpoints.save(step, training.state, asynchronous=asynchronous)
        middle = bits(training)
        losses = training.run(4)
        end = bits(training)
        found = checkpoints.resume(training.state)
        assert found is not None and found.step == 3 and checkpoints.steps() == [3, 2]
    again = Training(sharded)
    checkpoint.load(folder, again.state)
    after = bits(again)
    assert again.run(4) == losses
    for before, now in ((middle, after), (end, bits(again))):
        for name in before:
            np.testing.assert_array_equal(np.asarray(before[name]), np.asarray(now[name]), err_msg=name)
    world().barrier()


def test_an_error_on_the_last_rank_is_everybodys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comm = world()
    training = Training()
    training.run(1)
    with Checkpointer(folder) as checkpoints:
        checkpoints.save(1, training.state)
        for asynchronous in (False, True):
            with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
                if comm.rank == comm.size - 1:
                    def full(handle: int) -> None:
                        time.sleep(0.2)
                        raise OSError(28, "No space left on device")

                    patch.setattr(os, "fsync", full)
                checkpoints.save(2, training.state, asynchronous=asynchronous)
                training.run(2)
                checkpoints.wait()
        checkpoints.save(3, training.state)
        assert checkpoints.steps() == [3, 1]


def test_a_second_job_is_refused(folder: Path) -> None:
    comm = world()
    with Checkpointer(folder) as checkpoints:
        with pytest.raises(CheckpointError, match="another job"):
            Checkpointer(folder)
        part = comm.split(comm.rank % 2)
        assert part is not None
        with pytest.raises(CheckpointError, match="another job"):
            Checkpointer(folder, comm=part)
        checkpoints.save(1, {}, {"a": 1})
        assert checkpoint.load(folder, {}, comm=part).extra == {"a": 1}
        part.close()


def test_parts_of_the_world_save_on_their_own(folder: Path) -> None:
    comm = world()
    part = comm.split(comm.rank % 2)
    assert part is not None
    dg.manual_seed(comm.rank % 2)
    model: Any = nn.Linear(4, 4)
    with Checkpointer(f"{folder}{comm.rank % 2}", comm=part) as checkpoints:
        before = model.weight.detach().numpy().copy()
        checkpoints.save(comm.rank % 2, {"model": model}, asynchronous=True)
        with dg.no_grad():
            model.weight.zero_()
        assert checkpoints.restore({"model": model}).step == comm.rank % 2
        np.testing.assert_array_equal(model.weight.detach().numpy(), before)
    part.close()


def test_damage_is_seen_by_all(folder: Path) -> None:
    comm = world()
    training = Training()
    training.run(1)
    with Checkpointer(folder) as checkpoints:
        checkpoints.save(1, training.state)
        checkpoints.save(2, training.state)
        latest = checkpoints.latest()
        assert latest is not None
        if comm.rank == 0:
            os.truncate(os.path.join(latest, f"rank-{comm.size - 1:05d}.safetensors"), 100)
        comm.barrier()
        found = checkpoints.restore(training.state)
        assert found.step == 1 and "bytes, and was saved with" in found.skipped[0]
