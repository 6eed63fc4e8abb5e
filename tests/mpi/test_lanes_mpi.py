"""Lanes on real ranks that pretend to be on several machines; on real hosts: tests/hosts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.comm import Communicator, topology
from distgrad.distributed import DataParallel, simulate, world
from tests.distributed.models import train

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(60)]
MACHINES: dict[str, Any] = {
    "halves": lambda rank, size: rank * 2 // size,
    "one and the rest": lambda rank, size: int(rank > 0),
    "one rank each": lambda rank, size: rank,
}


def pretending(kind: str) -> Communicator:
    """A duplicate of the world whose ranks are on the machines of that kind."""
    comm = world().dup()
    comm.machine = str(MACHINES[kind](comm.rank, comm.size)).encode()
    return comm


@pytest.mark.parametrize("kind", sorted(MACHINES))
@pytest.mark.parametrize("overlap", [True, False])
def test_master_has_the_bits_of_simulated_ranks(kind: str, overlap: bool) -> None:
    comm = pretending(kind)
    alone = train("wide", 0, 1, None)
    run = train("wide", comm.rank, comm.size, {"comm": comm, "bucket_bytes": 1 << 15, "overlap": overlap})
    assert run.transport == "lanes"
    np.testing.assert_allclose(run.parameters, alone.parameters, rtol=1e-9, atol=1e-11)
    counts = [len(ranks) for ranks in topology.nodes(comm)]
    other = simulate(comm.size, counts)(lambda rank: train("wide", rank, comm.size, {}))[comm.rank]
    np.testing.assert_array_equal(run.parameters, other.parameters)
    assert run.norms == other.norms
    comm.close()


def test_uneven_batches_and_branches() -> None:
    comm = pretending("one and the rest")
    size = comm.size
    distgrad.manual_seed(0)
    model = DataParallel(nn.ModuleList([nn.Linear(70, 70) for _ in range(size + 1)]), comm=comm, bucket_bytes=1)
    for step in range(3):
        model.zero_grad()
        model.module[(comm.rank + step) % size](distgrad.ones(1, 70)).sum().backward()
        for layer in list(model.module)[:-1]:
            np.testing.assert_allclose(layer.weight.grad, 1 / size, rtol=1e-6)
        assert model.module[size].weight.grad is None
    model.zero_grad()
    loss = model.module[0](distgrad.full((comm.rank, 70), 2.0)).sum() / max(comm.rank, 1) if comm.rank else None
    model.backward(loss, weight=comm.rank)
    np.testing.assert_allclose(model.module[0].weight.grad, 2.0, rtol=1e-6)
    model.close()
    comm.close()


def test_one_node_without_memory_sends_all_to_the_wire(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    from distgrad.comm import shared

    comm = pretending("one and the rest")
    if comm.size < 3:
        pytest.skip("needs a machine with two ranks")

    def refuse(nbytes: int) -> Any:
        raise OSError("no memory today")

    if comm.rank == 2:
        monkeypatch.setattr(shared, "_allocate", refuse)
    model = DataParallel(nn.Linear(2, 1), comm=comm)
    assert model.transport == "mpi"
    model(distgrad.full((1, 2), float(comm.rank))).sum().backward()
    np.testing.assert_allclose(model.weight.grad, (comm.size - 1) / 2)
    model.close()
    assert ("rank 2: no memory today" in capfd.readouterr().err) is (comm.rank == 0)
    comm.close()
