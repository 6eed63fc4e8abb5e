"""ZeroRedundancyOptimizer: the same bits as the ordinary optimizer, with the state divided among the ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim, simulate
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer
from tests.distributed.models import MODELS, batch, flat

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (optim.Adam, {"lr": 1e-2}), "adamw": (optim.AdamW, {"lr": 1e-2, "amsgrad": True}),
    "sgd": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}), "plain sgd": (optim.SGD, {"lr": 0.1}),
    "adagrad": (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1}), "rmsprop": (optim.RMSprop, {"lr": 1e-2}),
}


def train(kind: str, name: str, rank: int, ranks: int, sharded: bool, transport: str = "shared", steps: int = 4,
          **resume: Any) -> Any:
    distgrad.manual_seed(3)
    model = DataParallel(MODELS[name](), transport=transport, bucket_bytes=1 << 14)
    cls, options = OPTIMIZERS[kind]
    optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), cls, **options) if sharded else \
        cls(model.parameters(), **options)
    if resume:
        if sharded:
            with optimizer.writable():
                model.load_state_dict(resume["model"])
        else:
            model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
    for step in range(steps):
        x, y = batch(name, rank, ranks, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x.float() if x.dtype == np.float64 else x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    return flat(model), state, optimizer.state_dict()


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_same_bits_as_the_ordinary_optimizer(kind: str, ranks: int) -> None:
    plain = simulate(ranks)(lambda rank: train(kind, "mlp", rank, ranks, False))
    for transport in ("shared", "mpi"):
        sharded = simulate(ranks)(lambda rank, t=transport: train(kind, "mlp", rank, ranks, True, t))
        for mine in sharded:
            np.testing.assert_array_equal(mine[0], plain[0][0])
            for number, state in plain[0][2]["state"].items():
                for name, value in state.items():
                    np.testing.assert_array_equal(mine[2]["state"][number][name], value, err_msg=f"{number} {name}")
            assert mine[2]["param_groups"] == plain[0][2]["param_groups"]


def test_an_lstm_too() -> None:
    plain = simulate(2)(lambda rank: train("adam", "lstm", rank, 2, False))
    sharded = simulate(2)(lambda rank: train("adam", "lstm", rank, 2, True))
    np.testing.assert_array_equal(sharded[1][0], plain[0][0])


@pytest.mark.parametrize("schedule", [
    lambda o: optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=6), lambda o: optim.lr_scheduler.StepLR(o, 2),
    lambda o: optim.lr_scheduler.SequentialLR(o, [optim.lr_scheduler.LinearLR(o, total_iters=2),
                                                  optim.lr_scheduler.ExponentialLR(o, 0.5)], [2])])
def test_schedules_set_its_rates(schedule: Any) -> None:
    def body(rank: int, sharded: bool) -> Any:
        distgrad.manual_seed(3)
        model = DataParallel(MODELS["mlp"]())
        optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=1e-2) if sharded else \
            optim.Adam(model.parameters(), lr=1e-2)
        scheduler, rates = schedule(optimizer), []
        for step in range(6):
            x, y = batch("mlp", rank, 2, step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x.float()), y).backward()
            optimizer.step()
            if step < 5:
                scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.steps_taken == 6
        return flat(model), rates, optimizer.state_dict()["param_groups"]

    plain, sharded = (simulate(2)(lambda rank, s=s: body(rank, s)) for s in (False, True))
    assert len(set(sharded[0][1])) > 2
    for mine, theirs in zip(sharded, plain, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        assert mine[1:] == theirs[1:]


def test_a_schedule_that_comes_before_the_first_step_warns() -> None:
    optimizer = ZeroRedundancyOptimizer(DataParallel(nn.Linear(2, 2)).parameters(), optim.SGD)
    with pytest.warns(UserWarning, match="came before the optimizer's first"):
        optim.lr_scheduler.StepLR(optimizer, 3).step()


@pytest.mark.parametrize("nodes", [[2, 2], [3, 1], [2, 1, 2], [1, 1]])
def test_between_nodes_as_well_with_one_copy_of_the_parameters_on_each(nodes: list[int]) -> None:
    ranks = sum(nodes)
    plain = simulate(ranks, nodes)(lambda rank: train("adam", "wide", rank, ranks, False))
    sharded = simulate(ranks, nodes)(lambda rank: train("adam", "wide", rank, ranks, True))
    for mine in sharded:
        np.testing.assert_array_equal(mine[0], plain[0][0])
        for number, state in plain[0][2]["state"].items():
            np.testing.assert_array_equal(mine[2]["state"][number]["exp_avg"], state["exp_avg"])

    def body(rank: int) -> tuple[int, int]:
        model = DataParallel(MODELS["wide"]())
        ZeroRedundancyOptimizer(model.parameters(), optim.SGD)
        return next(model.parameters()).array.ctypes.data, model.comm.rank

    places = [place for place, _ in simulate(ranks, nodes)(body)]
    begin = 0
    for count in nodes:
        assert len(set(places[begin:begin + count])) == 1
        begin += count
    assert len(set(places)) == len(nodes)


@pytest.mark.parametrize(("first", "second"), [(1, 3), (4, 2), (3, 1)])
def test_training_goes_on_with_another_number_of_ranks(first: int, second: int) -> None:
    _, model, optimizer = simulate(first)(lambda rank: train("adam", "mlp", rank, first, True))[0]
    saved = {"model": model, "optimizer": optimizer}
    resumed = simulate(second)(lambda rank: train("adam", "mlp", rank, second, True, **saved))
    ordinary = simulate(second)(lambda rank: train("adam", "mlp", rank, second, False, **saved))
    for found in resumed:
        np.testing.assert_array_equal(found[0], ordinary[0][0])


def test_each_rank_keeps_its_share_of_the_state() -> None:
    def body(rank: int) -> tuple[int, int]:
        model = DataParallel(nn.Linear(512, 64))
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam)
        model(distgrad.ones(1, 512)).sum().backward()
        optimizer.step()
        (part,) = optimizer._shares
        return sum(a.size for a in part.arrays.values()), model.weight.placement.group.layout.size

    results = simulate(3)(body)
    assert sum(size for size, _ in results) == 2 * results[0][1]
    assert max(size for size, _ in results) - min(size for size, _ in results) <= 2 * 4096


def test_parameters_without_a_gradient_are_skipped_and_count_their_own_steps() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(70, 70), nn.Linear(70, 70)

        def forward(self, x: Any, both: bool) -> Any:
            return self.a(x) + self.b(x) if both else self.a(x)

    def body(rank: int, sharded: bool) -> np.ndarray:
        distgrad.manual_seed(0)
        model = DataParallel(Two())
        optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.Adam) if sharded else \
            optim.Adam(model.parameters())
        for step in range(5):
            optimizer.zero_grad()
            model(distgrad.full((2, 70), float(rank + 1)), both=step % 2 == 0).sum().backward()
            optimizer.step()
        return flat(model)

    expected = simulate(2)(lambda rank: body(rank, False))[0]
    for found in simulate(2)(lambda rank: body(rank, True)):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("transport", ["shared", pytest.param("mpi", id="wire")])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shards_put_together_are_the_state(ranks: int, transport: str) -> None:
    def body(rank: int) -> Any:
        distgrad.manual_seed(3)
        model = DataParallel(MODELS["mlp"](), transport=transport, bucket_bytes=1 << 14)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=1e-2)
        assert optimizer.shard_dict()[0]["state"] == {} and optimizer.shard_dict()[1] == {}
        for step in range(2):
            x, y = batch("mlp", rank, ranks, step)
            nn.functional.cross_entropy(model(x.float() if x.dtype == np.float64 else x), y).backward()
            optimizer.step()
        return *optimizer.shard_dict(), optimizer.state_dict()

    results = simulate(ranks)(body)
    packed, _, expected = results[0]
    assert packed["param_groups"] == expected["param_groups"] and packed["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        assert packed["state"][number]["step"].item() == state["step"].item() == 2
        for name in ("exp_avg", "exp_avg_sq"):
            sharded = packed["state"][number][name]
            line = np.full(int(np.prod(sharded.shape)), np.nan, sharded.dtype)
            for rank, begin, end, at in sharded.pieces:
                assert np.isnan(line[begin:end]).all(), "no element has two owners"
                line[begin:end] = results[rank][1][sharded.key][at:at + end - begin]
            whole = line.reshape([sharded.shape[d] for d in sharded.order]).transpose(np.argsort(sharded.order))
            np.testing.assert_array_equal(whole, state[name].numpy())
    sizes = [sum(array.nbytes for array in mine.values()) for _, mine, _ in results]
    assert sum(sizes) < 1.5 * sum(tensor.numpy().nbytes for state in expected["state"].values()
                                  for tensor in state.values()), "no rank has the whole"


def test_groups_with_options_of_their_own() -> None:
    def body(rank: int, sharded: bool) -> np.ndarray:
        distgrad.manual_seed(0)
        model = DataParallel(nn.Sequential(nn.Linear(50, 90), nn.Linear(90, 20)))
        groups = [{"params": model.module[0].parameters(), "lr": 0.1}, {"params": model.module[1].parameters()}]
        cls: Any = ZeroRedundancyOptimizer if sharded else lambda params, kind, **options: kind(params, **options)
        optimizer = cls(groups, optim.Adam, lr=1e-3)
        for step in range(3):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.zero_grad()
            model(distgrad.full((2, 50), float(rank + 1))).square().mean().backward()
            optimizer.step()
        return flat(model)

    expected = simulate(3)(lambda rank: body(rank, False))[0]
    for found in simulate(3)(lambda rank: body(rank, True)):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_writes_are_refused_outside_of_writable_and_taken_from_owners_inside(transport: str) -> None:
    def body(rank: int) -> np.ndarray:
        model = DataParallel(nn.Linear(200, 50, bias=False), transport=transport.replace("wire", "mpi"))
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1)
        for write in (lambda: model.weight.mul_(2), lambda: model.weight.fill_(0), lambda: model.weight.zero_()):
            with distgrad.no_grad(), pytest.raises(RuntimeError, match="writable"):
                write()
        with pytest.raises(ValueError, match="read-only"):
            model.weight.detach().numpy()[0] = 1
        with optimizer.writable(), distgrad.no_grad():
            model.weight.fill_(float(rank))
        return flat(model)

    first, second = simulate(2)(body)
    np.testing.assert_array_equal(first, second)
    assert set(np.unique(first)) == {0.0, 1.0}


def test_misuse() -> None:
    with pytest.raises(ValueError, match="DataParallel"):
        ZeroRedundancyOptimizer(nn.Linear(2, 2).parameters(), optim.Adam)
    model = DataParallel(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"'bias'.*lr=0"):
        ZeroRedundancyOptimizer([model.weight], optim.Adam)
    with pytest.raises(TypeError, match="rule"):
        ZeroRedundancyOptimizer(model.parameters(), dict)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lr"):
        ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=-1)
