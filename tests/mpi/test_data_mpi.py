"""Data on real ranks: who reads what, places that all ranks agree on, and workers that are no ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn, optim
from distgrad.data import DataLoader, DistributedSampler, MemmapDataset, TensorDataset
from distgrad.distributed import DataParallel, Join, world
from tests.data.readers import AsksForRank, Noisy, Seen

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(60)]


@pytest.fixture(scope="module", autouse=True)
def the_tracker_exists_before_the_tests() -> None:
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()


def gathered(mine: list[int]) -> list[list[int]]:
    return [json.loads(text) for text in world().allgather_bytes(json.dumps(mine).encode())]


def test_the_sampler_knows_the_ranks() -> None:
    comm = world()
    sampler = DistributedSampler(29, pad=False)
    assert (sampler.num_replicas, sampler.rank) == (comm.size, comm.rank)
    assert sorted(i for part in gathered(list(sampler)) for i in part) == list(range(29))


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "worker": "process"}])
def test_an_epoch_goes_on_on_fewer_ranks(options: dict) -> None:
    """Every rank says the same place; one rank less reads the rest, each sample once."""
    comm = world()
    data = TensorDataset(dg.arange(53))
    loader = DataLoader(data, 3, sampler=DistributedSampler(data, seed=5, pad=False), **options)
    loader.sampler.set_epoch(4)
    iterator = iter(loader)
    mine = [i for _ in range(2) for i in next(iterator)[0].tolist()]
    del iterator
    states = {text.decode() for text in comm.allgather_bytes(json.dumps(loader.state_dict()).encode())}
    assert len(states) == 1
    if comm.rank < comm.size - 1:
        fewer = DataLoader(data, 4, sampler=DistributedSampler(data, comm.size - 1, comm.rank, pad=False), **options)
        fewer.load_state_dict(json.loads(states.pop()))
        mine += [i for batch in fewer for i in batch[0].tolist()]
    assert sorted(i for part in gathered(mine) for i in part) == list(range(53))


def test_uneven_ranks_train_on_the_mean_over_all_samples() -> None:
    """Without padding: weights and Join make the steps those of one process on the whole batches."""
    comm = world()
    n = 4 * comm.size * 2 + 1  # the last batch has one sample, on rank 0 alone
    x = dg.from_numpy(np.random.default_rng(0).standard_normal((n, 3)))
    y = x.sum(1, keepdim=True)

    def train(model: DataParallel, loader: DataLoader) -> list:
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(a: dg.Tensor | None = None, b: dg.Tensor | None = None) -> None:
            optimizer.zero_grad()
            if a is None:
                model.backward(None, weight=0)
            else:
                model.backward(((model(a) - b) ** 2).mean(), weight=len(a))
            optimizer.step()

        with Join(model, step):
            for a, b in loader:
                step(a, b)
        return [p.detach().numpy().copy() for p in model.module.parameters()]

    def net() -> nn.Module:
        dg.manual_seed(1)
        return nn.Linear(3, 1, dtype=dg.float64)

    data = TensorDataset(x, y)
    together = train(DataParallel(net()), DataLoader(data, 4, sampler=DistributedSampler(data, seed=2, pad=False)))
    model, optimizer_steps = net(), 0
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for a, b in DataLoader(data, 4 * comm.size, sampler=DistributedSampler(data, 1, 0, seed=2)):
        optimizer.zero_grad()
        ((model(a) - b) ** 2).mean().backward()
        optimizer.step()
        optimizer_steps += 1
    assert optimizer_steps == 3
    for mine, alone in zip(together, model.parameters(), strict=True):
        np.testing.assert_allclose(mine, alone.detach().numpy(), rtol=1e-12)


def test_worker_processes_beside_mpi(tmp_path: Path) -> None:
    comm = world()
    folder = Path(comm.broadcast_bytes(str(tmp_path).encode()).decode())
    if comm.rank == 0:
        np.save(folder / "x.npy", np.arange(40.0).reshape(20, 2))
    comm.barrier()
    data = MemmapDataset(folder / "x.npy")
    loader = DataLoader(data, 3, sampler=DistributedSampler(data), num_workers=1, worker="process")
    found = dg.cat(list(loader)).numpy()
    np.testing.assert_array_equal(found[:, 0] / 2, list(DistributedSampler(data)))
    assert len(list(DataLoader(Seen(4), 2, num_workers=1, worker="process"))) == 2
    noisy = DistributedSampler(12, seed=1)
    one, two = ([b[1].tolist() for b in DataLoader(Noisy(12), 2, sampler=noisy, num_workers=count, worker="process")]
                for count in (0, 2))
    assert one == two
    everyone = gathered([int(1e9 * value) for batch in one for row in batch for value in row])
    assert len({value for part in everyone for value in part}) > 0.9 * sum(map(len, everyone)), "ranks draw differently"
    comm.barrier()


def test_a_worker_process_is_no_rank() -> None:
    with pytest.raises(RuntimeError, match="started by a rank and is none itself"):
        list(DataLoader(AsksForRank(2), num_workers=1, worker="process"))
    rank = world().rank
    assert [batch.tolist() for batch in DataLoader(AsksForRank(2), 2, num_workers=1)] == [[rank, rank]]
    samplers = [batch.tolist() for batch in DataLoader(AsksForRank(2, "sampler"), 2, num_workers=1, worker="process")]
    assert samplers == [[rank, rank]], "a sampler made there serves the same replica"
