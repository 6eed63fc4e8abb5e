"""Devices of real ranks, over stand-ins for cupy and NCCL: what MPI is given of them, and how ranks agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import backend, cuda, nn
from distgrad.comm import devices, staging
from distgrad.comm.mpi import communicator
from distgrad.distributed import DataParallel, world
from tests.gpu import standin_nccl
from tests.gpu.present import present

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(60),
              pytest.mark.skipif("config.getoption('--device') != 'cpu'", reason="brings its own device")]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """CUDA's backend, of as many devices as there are ranks, where DISTGRAD_CUDA_MPI=1."""
    monkeypatch.setattr(staging, "config", replace(staging.config, cuda_mpi=1))
    with present(devices=world().size), cuda.device(world().rank):
        yield backend.get("cuda")


def test_a_library_that_denies_cuda_is_given_none(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(communicator, "takes_cuda", lambda: False)
    array = gpu.xp.ones(3, "float32")
    with pytest.raises(RuntimeError, match=r"DISTGRAD_CUDA_MPI=1 .*this library \(.+\) says that it does not: unset"):
        world().broadcast(array, 0)
    world().allreduce(array, array)  # by way of the host in any case
    assert gpu.to_host(array).tolist() == [world().size] * 3


@pytest.mark.parametrize("limit", [None, 2], ids=["whole", "pieces"])
@pytest.mark.parametrize("kind", ["float16", "float32", "complex128", "bool"])
def test_mpi_reads_and_writes_where_the_device_has_it(gpu: Any, kind: str, limit: int | None,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    comm = world()
    rank, size = comm.rank, comm.size
    synchronized: list[Any] = []
    monkeypatch.setattr(communicator, "takes_cuda", lambda: None)  # it does not say, and the user does
    monkeypatch.setattr(type(gpu), "synchronize", lambda self, device=None: synchronized.append(device))
    if limit is not None:
        monkeypatch.setattr(communicator, "_LIMIT", limit)
    read = type(gpu).to_host
    monkeypatch.setattr(type(gpu), "to_host", lambda *a, **k: pytest.fail("device memory passed through the host"))

    def there(*numbers: Any) -> Any:
        return gpu.from_host(np.asarray(numbers, kind))

    def is_now(array: Any, *numbers: Any) -> None:
        np.testing.assert_array_equal(read(gpu, array), np.asarray(numbers, kind))

    one = there(rank, 1, rank + 2)
    comm.broadcast(one, 1)
    is_now(one, 1, 1, 3)
    whole = gpu.xp.zeros(2 * size, kind)
    comm.allgather(there(rank, rank + 1), whole)
    is_now(whole, *[rank + i for rank in range(size) for i in (0, 1)])
    parts = gpu.xp.zeros(size, kind)
    comm.alltoallv(there(*range(rank, rank + size)), [1] * size, parts, [1] * size)
    is_now(parts, *range(rank, rank + size))
    if rank == 0:
        comm.send(one, 1)
    elif rank == 1:
        three = there(0, 0, 0)
        comm.recv(three, 0)
        is_now(three, 1, 1, 3)
    assert synchronized and {str(device) for device in synchronized} == {f"cuda:{rank}"}


def fallen_back(match: str) -> None:
    with pytest.raises(RuntimeError, match=match):
        DataParallel(nn.Linear(3, 2).to("cuda"), transport="nccl")
    model = DataParallel(nn.Linear(3, 2).to("cuda"))
    model(dg.ones(1, 3).to("cuda") * world().rank).sum().backward()
    np.testing.assert_allclose(model.weight.grad.cpu().numpy(), (world().size - 1) / 2)
    assert model.transport == "shared"
    model.close()


def test_ranks_that_share_a_device(gpu: Any) -> None:
    with cuda.device(0):
        fallen_back(r"transport='nccl' is not possible here: ranks 0.* and \d+ share cuda:0 of host")


def test_no_nccl(gpu: Any) -> None:
    fallen_back("rank 0 has no NCCL: cupy finds no NCCL: pip install nvidia-nccl-cu12")


def test_a_rank_that_fails_while_the_others_wait_for_it(gpu: Any) -> None:
    with standin_nccl.installed(world().size) as nccl:
        nccl.fails = {world().size - 1: "unhandled system error"}
        fallen_back(rf"NCCL failed on rank {world().size - 1}: NcclError: .*system error.*NCCL_SOCKET_IFNAME")


def test_ranks_that_never_find_each_other(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them waits for ever in the call that joins them, as behind a firewall."""
    monkeypatch.setattr(devices, "Deadline", standin_nccl.Soon)
    with standin_nccl.installed(world().size):
        everyone = ", ".join(map(str, range(world().size)))
        fallen_back(rf"NCCL has not joined the devices; not there: rank\(s\) {everyone}\. NCCL_DEBUG=INFO")
