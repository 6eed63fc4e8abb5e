"""A training that was interrupted goes on as if nothing had been: the same bits, also on other ranks."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import distgrad as dg
from distgrad import checkpoint, nn, optim, simulate
from distgrad.checkpoint import Checkpointer, PerRank, load_weights
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, get_rank, world
from distgrad.errors import CheckpointError
from tests.checkpoint.training import GLOBAL_BATCH, SAMPLES, Training, bits


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        if isinstance(a[name], np.ndarray):
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        else:
            assert a[name] == b[name], name


def first_half(folder: Path, ranks: int, sharded: bool, asynchronous: bool = False, **options: Any) -> list[Any]:
    """Seven steps, of which five are an epoch, a checkpoint, and seven more: what was there then, and what came."""
    def body(rank: int) -> Any:
        training = Training(sharded, **options)
        with Checkpointer(folder) as checkpoints:
            training.run(7)
            checkpoints.save(7, training.state, {"best": 0.25, "curve": np.arange(3.0)}, asynchronous=asynchronous)
            middle = bits(training)
            losses = training.run(7)
        return middle, losses, bits(training), training.seen[7:]

    return simulate(ranks)(body)


def second_half(folder: Path, ranks: int, sharded: bool, steps: int = 7, **options: Any) -> list[Any]:
    def body(rank: int) -> Any:
        training = Training(sharded, **options)
        training.run(2)  # what is there is replaced
        training.seen.clear()
        with Checkpointer(folder) as checkpoints:
            found = checkpoints.resume(training.state)
        assert found is not None and found.step == 7 and found.extra["best"] == 0.25
        np.testing.assert_array_equal(found.extra["curve"], np.arange(3.0))
        middle = bits(training)
        return middle, training.run(steps), bits(training), training.seen

    return simulate(ranks)(body)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_same_bits_after_an_interruption(ranks: int, sharded: bool, asynchronous: bool, tmp_path: Path) -> None:
    before = first_half(tmp_path / "c", ranks, sharded, asynchronous)
    after = second_half(tmp_path / "c", ranks, sharded)
    for mine, theirs in zip(after, before, strict=True):
        same(mine[0], theirs[0])
        assert mine[1] == theirs[1], "dropout draws what it would have drawn"
        same(mine[2], theirs[2])
        assert mine[3] == theirs[3]


@pytest.mark.parametrize("then", [1, 2, 4])
@pytest.mark.parametrize("sharded", [False, True])
def test_another_number_of_ranks(sharded: bool, then: int, tmp_path: Path) -> None:
    """The state is equal, and the rest of the epoch holds each sample once. Then the losses are those of 3 ranks."""
    plain = {"dropout": 0.0, "norm": False}
    before = first_half(tmp_path / "c", 3, sharded, **plain)
    after = second_half(tmp_path / "c", then, sharded, 8, **plain)
    for mine in after:
        same(mine[0], before[0][0])
    merged = [sorted(i for rank in after for i in rank[3][step]) for step in range(8)]
    assert merged[:7] == [sorted(i for rank in before for i in rank[3][step]) for step in range(7)]
    rest = SAMPLES // GLOBAL_BATCH - 7 % (SAMPLES // GLOBAL_BATCH)
    assert len({i for step in merged[:rest] for i in step}) == rest * GLOBAL_BATCH, "neither lost nor doubled"
    assert sorted(i for step in merged[rest:rest + 5] for i in step) == list(range(SAMPLES)), "a whole epoch follows"
    expected = np.mean([rank[1] for rank in before], axis=0)
    np.testing.assert_allclose(np.mean([rank[1][:7] for rank in after], axis=0), expected, rtol=1e-3)


@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW, optim.RMSprop, optim.Adagrad])
@pytest.mark.parametrize("first", ["sharded", "whole"])
def test_between_sharded_and_ordinary_optimizers(kind: Any, first: str, tmp_path: Path) -> None:
    def save(rank: int) -> Any:
        training = Training(first == "sharded", kind)
        training.state.pop("schedule", None)
        training.run(3)
        checkpoint.save(tmp_path / "one", training.state, 3)
        return bits(training)

    def restore(rank: int) -> Any:
        training = Training(first != "sharded", kind)
        training.state.pop("schedule", None)
        assert checkpoint.load(tmp_path / "one", training.state).step == 3
        return bits(training)

    before = simulate(2)(save)
    for found in simulate(3)(restore):
        same(found, before[0])


def test_what_is_saved_is_what_was_there_when_save_was_called(tmp_path: Path) -> None:
    def body(rank: int) -> Any:
        training = Training()
        with Checkpointer(tmp_path / "c") as checkpoints:
            training.run(2)
            before = bits(training)
            checkpoints.save(2, training.state, asynchronous=True)
            training.run(3)
            checkpoints.wait()
            assert checkpoints.steps() == [2]
            checkpoints.restore(training.state)
            same(bits(training), before)
            assert checkpoints.latest() == str(tmp_path / "c" / "000001-step-2")
        return True

    assert all(simulate(2)(body))


def test_streams_are_each_ranks_own(tmp_path: Path) -> None:
    def save(rank: int) -> list[float]:
        dg.manual_seed(rank)
        mine = dg.Generator(50 + rank)
        dg.randn(3 + rank)
        dg.rand(2, generator=mine)
        checkpoint.save(tmp_path / "one", {"noise": mine})
        return [*dg.rand(3).tolist(), *dg.rand(3, generator=mine).tolist()]

    def restore(rank: int) -> list[float]:
        mine = dg.Generator(0)
        checkpoint.load(tmp_path / "one", {"noise": mine})
        return [*dg.rand(3).tolist(), *dg.rand(3, generator=mine).tolist()]

    saved = simulate(3)(save)
    assert simulate(3)(restore) == saved
    five = simulate(5)(restore)
    assert five[:3] == saved and len({tuple(row) for row in five}) == 5, "new ranks draw what no other rank draws"
    assert simulate(5)(restore) == five


def test_local_buffers_and_parts_of_each_rank(tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.values = np.full(3, get_rank())

        def state_dict(self) -> dict[str, Any]:
            return {"values": self.values}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.values = state["values"]

    def body(rank: int) -> None:
        model = DataParallel(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), buffers="local")
        model(dg.full((5, 4), float(rank)))
        model(dg.randn(5, 4, generator=dg.Generator(rank)))
        before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
        counter = Counter()
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(1, {"model": model, "counter": PerRank(counter)})
            with dg.no_grad():
                for tensor in model.state_dict().values():
                    tensor.fill_(7)
            counter.values = np.zeros(3)
            checkpoints.restore({"model": model, "counter": PerRank(counter)})
        assert counter.values.tolist() == [rank] * 3
        for name, tensor in model.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), before[name], err_msg=name)
        means = world().allgather_bytes(before["1.running_mean"].tobytes())
        assert len(set(means)) == 3

    simulate(3)(body)

    def other(rank: int) -> None:
        with pytest.raises(CheckpointError, match="saved by 3 ranks"):
            checkpoint.load(tmp_path / "c", {"counter": PerRank(Counter())})
        model = DataParallel(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), buffers="local")
        checkpoint.load(tmp_path / "c", {"model": model})

    simulate(2)(other)


def test_a_state_that_differs_between_ranks_is_refused(tmp_path: Path) -> None:
    class Position:
        def state_dict(self) -> dict[str, Any]:
            return {"at": get_rank()}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def body(rank: int) -> None:
        with Checkpointer(tmp_path / "c") as checkpoints:
            with pytest.raises(ValueError, match=r"'reader' differs between rank 0 and rank 1; PerRank\(reader\)"):
                checkpoints.save(1, {"reader": Position()})
            with pytest.raises(ValueError, match="rank 0 saves"):
                checkpoints.save(1, {f"part{rank}": Position()})
            with pytest.raises(ValueError, match="'extra' differs"):
                checkpoints.save(1, {}, {"rank": rank})
            with pytest.raises(TypeError, match="'thing' has no state_dict"):
                checkpoints.save(1, {"thing": 3} if rank == 1 else {"thing": Position()})
            for name in ("extra", "random", "a/b", "a.b", "", "..", 3):
                with pytest.raises(ValueError, match="cannot name a part"):
                    checkpoints.save(1, {name: Position()})
            for step in (-1, 1.5, True, "3"):
                with pytest.raises(ValueError, match="whole number"):
                    checkpoints.save(step, {})  # type: ignore[arg-type]
            assert checkpoints.steps() == []
            checkpoints.save(1, {"reader": PerRank(Position())})

    simulate(2)(body)


def test_misfits_change_nothing(tmp_path: Path) -> None:
    def save(rank: int) -> None:
        training = Training()
        training.run(1)
        checkpoint.save(tmp_path / "one", training.state, 1)

    simulate(2)(save)

    def body(rank: int) -> None:
        training = Training()
        before = bits(training)
        narrow = DataParallel(nn.Sequential(nn.Linear(4, 3)))
        wide = DataParallel(nn.Linear(40, 150).double())
        for state, text in (
                ({"sampler": training.order, "schedule": training.order}, "no 'schedule'; it has model, optimizer"),
                ({"sampler": training.order, "model": narrow}, "'0.weight' has the shape"),
                ({"sampler": training.order, "model": wide}, "no tensor 'weight'"),
                ({"sampler": PerRank(training.order)}, "saved for all ranks")):
            with pytest.raises(CheckpointError, match=text):
                checkpoint.load(tmp_path / "one", state)
        other = Training()
        start = bits(other)
        for optimizer, text in ((optim.Adam(training.model.parameters()), "the state has 2 parameter groups, the"),
                                (ZeroRedundancyOptimizer(narrow.parameters(), optim.Adam), "the state has 2")):
            with pytest.raises(CheckpointError, match=text):
                checkpoint.load(tmp_path / "one", {"model": other.model, "optimizer": optimizer})
        same(bits(other), start)
        same(bits(training), before)

    simulate(2)(body)


def test_one_part_alone(tmp_path: Path) -> None:
    def save(rank: int) -> Any:
        training = Training()
        training.run(2)
        checkpoint.save(tmp_path / "one", training.state, 2)
        return bits(training)

    before = simulate(2)(save)[0]
    module = nn.Sequential(nn.Linear(40, 150), nn.BatchNorm1d(150), nn.ReLU(), nn.Dropout(0.2), nn.Linear(150, 60),
                           nn.ReLU(), nn.Linear(60, 5))
    checkpoint.load(tmp_path / "one", {"model": module})
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[f"model.{name}"])
    # The weights are an ordinary file, under the module's own names.
    assert load_weights(tmp_path / "one" / "model.safetensors", module).keys() == module.state_dict().keys()
    found = safetensors.numpy.load_file(tmp_path / "one" / "model.safetensors")
    assert all(np.array_equal(found[name], before[f"model.{name}"]) for name in module.state_dict())
    for path in (tmp_path / "one").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        if path.suffix == ".safetensors":
            safetensors.numpy.load_file(path)
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700


def test_large_models_are_divided_among_the_ranks(tmp_path: Path) -> None:
    def body(rank: int) -> Any:
        dg.manual_seed(0)
        model = DataParallel(nn.Sequential(*[nn.Linear(700, 700) for _ in range(5)]))
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1, momentum=0.9)
        before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(0, {"model": model, "optimizer": optimizer}, asynchronous=True)
            with optimizer.writable(), dg.no_grad():
                for p in model.parameters():
                    p.zero_()
            checkpoints.restore({"model": model, "optimizer": optimizer})
        for name, tensor in model.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), before[name])
        return before

    before = simulate(3)(body)[0]
    sizes = [path.stat().st_size for path in sorted((tmp_path / "c").glob("*/model-*-of-00003.safetensors"))]
    assert len(sizes) == 3 and max(sizes) < 2.1 * min(sizes)
    assert sum(sizes) > sum(array.nbytes for array in before.values())


def test_newest_means_saved_last(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with Checkpointer(tmp_path / "c", keep=3) as checkpoints:
        assert checkpoints.resume({"model": model}) is None
        with pytest.raises(FileNotFoundError):
            checkpoints.resume({"model": model}, "must")
        for step in (10, 20, 30, 40):
            checkpoints.save(step, {"model": model})
        assert checkpoints.steps() == [40, 30, 20]
        assert checkpoints.restore({"model": model}, step=20).step == 20
        checkpoints.save(25, {"model": model})
        checkpoints.save(25, {"model": model})  # the same step again is one more
        assert checkpoints.steps() == [25, 25, 40]
        with pytest.raises(FileNotFoundError, match="step 20"):
            checkpoints.restore({"model": model}, step=20)
        with pytest.raises(ValueError, match="'auto', 'never' or 'must'"):
            checkpoints.resume({"model": model}, "always")
        assert checkpoints.resume({"model": model}, "never") is None
        found = checkpoints.resume({"model": model}, "must")
        assert found is not None and found.step == 25
    with pytest.raises(CheckpointError, match="closed"):
        checkpoints.save(1, {})
    with Checkpointer(tmp_path / "c", keep=None) as checkpoints:
        for step in range(5):
            checkpoints.save(step, {})
        assert len(checkpoints.steps()) == 8
    for keep in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="keep"):
            Checkpointer(tmp_path / "d", keep)  # type: ignore[arg-type]
    with pytest.raises(FileExistsError):
        checkpoint.save(tmp_path / "c", {})
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "nothing", {})
