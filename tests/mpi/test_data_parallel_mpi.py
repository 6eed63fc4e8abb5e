"""DataParallel on real ranks: the master test, sub-communicators, differing models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.distributed import DataParallel, world
from distgrad.errors import CollectiveMismatchError
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed.models import BATCH, MODELS, flat, train

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("transport", ["shared", "wire"])  # a test id "mpi" would be skipped by pytest-mpi
def test_master(name: str, overlap: bool, transport: str) -> None:
    """n ranks on shards == one rank on the whole batch, in lock-step, with clipping that bites."""
    comm = world()
    if BATCH % comm.size:
        pytest.skip(f"a batch of {BATCH} has no equal shards for {comm.size} ranks")
    alone = train(name, 0, 1, None)
    options = {"bucket_bytes": 1 << 14, "overlap": overlap, "transport": transport.replace("wire", "mpi")}
    run = train(name, comm.rank, comm.size, options)
    for step, (mine, theirs) in enumerate(zip(run.parameters, alone.parameters, strict=True)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11, err_msg=f"step {step}")
    assert len(set(comm.allgather_bytes(run.parameters[-1].tobytes()))) == 1, "every rank has the same bits"
    assert len(set(comm.allgather_bytes(np.array(run.norms).tobytes()))) == 1, "and the same norms"
    assert min(alone.norms) > alone.max_norm


def test_any_intracommunicator_will_do() -> None:
    from mpi4py import MPI

    half = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.rank % 2, MPI.COMM_WORLD.rank)
    distgrad.manual_seed(0)
    model = DataParallel(nn.Linear(3, 1, bias=False), comm=half)
    model(distgrad.full((1, 3), float(MPI.COMM_WORLD.rank))).sum().backward()
    members = range(MPI.COMM_WORLD.rank % 2, MPI.COMM_WORLD.size, 2)
    np.testing.assert_allclose(model.weight.grad, np.mean(members))
    model.close()
    half.Free()


def test_communicators_that_will_not_do() -> None:
    from mpi4py import MPI

    with pytest.raises((TypeError, ValueError)):
        DataParallel(nn.Linear(1, 1), comm=MPI.COMM_NULL)
    freed = MPI.COMM_WORLD.Dup()
    freed.Free()
    with pytest.raises((TypeError, ValueError)):
        DataParallel(nn.Linear(1, 1), comm=freed)


def test_differing_models_are_named_on_every_rank() -> None:
    comm = world()
    if comm.size < 2:
        pytest.skip("needs two ranks")
    with pytest.raises(CollectiveMismatchError, match=r"'weight' \(shape \(1, 2\).*'weight' \(shape \(1, 3\)"):
        DataParallel(nn.Linear(2 + (comm.rank == comm.size - 1), 1))


def test_branches_differ_without_flags() -> None:
    comm = world()
    distgrad.manual_seed(0)
    model = DataParallel(nn.ModuleList([nn.Linear(2, 2) for _ in range(comm.size + 1)]), bucket_bytes=1)
    for step in range(3):
        model.zero_grad()
        model.module[(comm.rank + step) % comm.size](distgrad.ones(1, 2)).sum().backward()
        for layer in list(model.module)[:-1]:
            np.testing.assert_allclose(layer.weight.grad, 1 / comm.size, rtol=1e-6)
        assert model.module[comm.size].weight.grad is None
    model.close()


def test_clip_is_the_norm_of_the_mean() -> None:
    comm = world()
    distgrad.manual_seed(0)
    model = DataParallel(nn.Linear(130, 90).double(), bucket_bytes=1 << 15)
    distgrad.manual_seed(comm.rank)
    model(distgrad.randn(4, 130, dtype=distgrad.float64)).pow(2).sum().backward()
    before = flat(model, grad=True)
    norm = clip_grad_norm_(model.parameters(), 1.0)
    np.testing.assert_allclose(norm, np.linalg.norm(before), rtol=1e-12)
    assert len(set(comm.allgather_bytes(norm.numpy().tobytes()))) == 1
    assert len(set(comm.allgather_bytes(flat(model, grad=True).tobytes()))) == 1
    model.close()


def test_gradients_of_the_users_own_traffic_do_not_mix() -> None:
    """The user's collectives on the same communicator, while buckets travel."""
    from mpi4py import MPI

    distgrad.manual_seed(0)
    model = DataParallel(nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)]), comm=MPI.COMM_WORLD, bucket_bytes=1)
    totals: list[Any] = []

    def hook(_p: Any) -> None:
        totals.append(MPI.COMM_WORLD.allreduce(1))

    for layer in model.module:
        layer.weight.register_post_accumulate_grad_hook(hook)
    model(distgrad.ones(1, 64)).sum().backward()
    assert totals == [MPI.COMM_WORLD.size] * 4
    model.close()


def test_shared_memory_leaves_nothing_behind() -> None:
    """It has no name, so nothing is in /dev/shm; and it goes when the last gradient in it goes."""
    import gc
    import os

    def descriptors() -> int:
        links = []
        for number in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{number}"))
            except FileNotFoundError:
                continue  # the one that listed the folder
        return sum("memfd:distgrad" in link for link in links)

    comm = world()
    if comm.size < 2:
        pytest.skip("needs two ranks")
    gc.collect()
    before, held = set(os.listdir("/dev/shm")), descriptors()
    model = DataParallel(nn.Linear(300, 300), transport="shared")
    assert model.transport == "shared" and descriptors() > held
    assert set(os.listdir("/dev/shm")) <= before
    model.close()
    del model
    gc.collect()
    assert descriptors() == held


def test_without_shared_memory_the_wire_carries(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """One rank cannot have it: all ranks fall back, rank 0 says why; asking for it outright is an error everywhere."""
    from distgrad.comm import shared

    comm = world()
    if comm.size < 2:
        pytest.skip("needs two ranks")

    def refuse(nbytes: int) -> Any:
        raise OSError("no memory today")

    if comm.rank == 1:
        monkeypatch.setattr(shared, "_allocate", refuse)
    model = DataParallel(nn.Linear(2, 2))
    assert model.transport == "mpi"
    model(distgrad.ones(1, 2)).sum().backward()
    model.close()
    said = capfd.readouterr().err
    assert ("rank 1: no memory today" in said) is (comm.rank == 0)
    with pytest.raises(RuntimeError, match="rank 1: no memory today"):
        DataParallel(nn.Linear(2, 2), transport="shared")


@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_ranks_equal_one_rank_on_the_same_micro_batches_bitwise(transport: str) -> None:
    from mpi4py import MPI

    comm = world()
    stream = np.random.default_rng(4)
    batches = [distgrad.tensor(stream.standard_normal((3, 5)).astype("f4")) for _ in range(comm.size)]

    def make(**options: Any) -> DataParallel:
        distgrad.manual_seed(1)
        return DataParallel(nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 2)), **options)

    together = make(transport=transport.replace("wire", "mpi"))
    together.backward(together(batches[comm.rank]).square().mean(), weight=1)
    alone = make(comm=MPI.COMM_SELF)
    for x in batches:
        alone.backward(alone(x).square().mean(), weight=1)
    np.testing.assert_array_equal(flat(together, grad=True), flat(alone, grad=True))
    together.close()


def test_a_backward_that_raises_on_one_rank_raises_on_all_and_training_goes_on() -> None:
    from distgrad.errors import RankFailedError

    comm = world()
    if comm.size < 2:
        pytest.skip("needs two ranks")
    model = DataParallel(nn.Linear(2, 1))

    def hook(_g: Any) -> None:
        raise KeyError("mine")

    handle = model.weight.register_hook(hook) if comm.rank == 1 else None
    with pytest.raises(KeyError if comm.rank == 1 else RankFailedError, match="mine"):
        model(distgrad.ones(1, 2)).sum().backward()
    if handle is not None:
        handle.remove()
    model.zero_grad()
    model(distgrad.full((1, 2), float(comm.rank))).sum().backward()
    np.testing.assert_allclose(model.weight.grad, (comm.size - 1) / 2)
    model.close()


@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_a_sharded_optimizer_gives_the_bits_of_the_ordinary_one(transport: str) -> None:
    from distgrad import optim
    from distgrad.distributed import ZeroRedundancyOptimizer

    comm = world()

    def run(sharded: bool) -> np.ndarray:
        distgrad.manual_seed(2)
        model = DataParallel(nn.Sequential(nn.Linear(80, 90), nn.ReLU(), nn.Linear(90, 5)),
                             transport=transport.replace("wire", "mpi"))
        make: Any = ZeroRedundancyOptimizer if sharded else lambda params, cls, **options: cls(params, **options)
        optimizer = make(model.parameters(), optim.Adam, lr=1e-2)
        distgrad.manual_seed(comm.rank)
        for _ in range(5):
            optimizer.zero_grad()
            model(distgrad.randn(4, 80)).square().mean().backward()
            clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        found = flat(model)
        model.close()
        return found

    np.testing.assert_array_equal(run(True), run(False))
