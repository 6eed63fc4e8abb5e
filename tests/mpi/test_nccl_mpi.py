"""NCCL between real devices: `distgrad run -n 2 -m pytest --with-mpi --device cuda tests/mpi/test_nccl_mpi.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import cuda, nn
from distgrad.comm import local_rank
from distgrad.distributed import DataParallel, world
from tests.gpu.test_nccl import WAYS, same, trained

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(120),
              pytest.mark.skipif("config.getoption('--device') != 'cuda'", reason="needs CUDA devices: --device cuda")]


@pytest.fixture(autouse=True)
def own_device() -> Iterator[None]:
    """Each rank of a machine takes a device of its own."""
    here, count = local_rank(world()), cuda.device_count()
    counts = world().allgather_bytes(b"" if here < count else f"rank {world().rank} has the number {here} on its "
                                     f"machine, which has {count} device(s)".encode())
    if missing := next(filter(None, counts), b""):
        pytest.skip(f"needs a device for every rank: {missing.decode()}")
    default = dg.get_default_device()
    dg.set_default_device(None)
    with cuda.device(here):
        yield
    dg.set_default_device(default)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "shard"), [("float64", False), ("float32", True), ("float16", False)])
def test_training_is_that_of_gradients_which_pass_through_the_host(way: Any, kind: str, shard: bool) -> None:
    rank = world().rank
    found, expected = trained(way, "nccl", kind, shard)(rank), trained(way, "mpi", kind, shard)(rank)
    assert (found[3], expected[3]) == ("nccl", "mpi")
    same(found, expected, kind)
    bits = b"".join(value.tobytes() for value in found[0]) + np.asarray(found[1]).tobytes()
    assert world().allgather_bytes(bits) == [bits] * world().size


def test_large_gradients() -> None:
    """Several buckets of megabytes, again and again: nothing is read before it is there."""
    model = DataParallel(nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(4)]).to("cuda"))
    assert model.transport == "nccl"
    x = dg.ones(2, 1024).to("cuda")
    for step in range(20):
        for p in model.parameters():
            p.data.fill_(1 / 1024)
        model.zero_grad()
        (model(x).sum() * (world().rank + step)).backward()
        expected = 2 * (sum(range(world().size)) / world().size + step)
        for p in model.parameters():
            np.testing.assert_allclose(p.grad.cpu().numpy(), expected, rtol=1e-4)
    model.close()
