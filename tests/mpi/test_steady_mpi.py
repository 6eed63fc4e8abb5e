"""A steady step of real ranks on the strict device: the batch and the buckets cross, and nothing else."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from distgrad import optim
from distgrad.backend.strict import transfers
from distgrad.distributed import DataParallel, world
from tests.steady import Step

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]


@pytest.mark.parametrize("transport", ["shared", "wire"])  # a test id "mpi" would be skipped by pytest-mpi
@pytest.mark.parametrize("look", [False, True], ids=["", "gradients looked at"])
def test_batch_and_buckets_alone_are_moved(look: bool, transport: str) -> None:
    step = Step("wide", lambda p: optim.Adam(p, lr=1e-2), lambda module: DataParallel(
        module, bucket_bytes=1, transport=transport.replace("wire", "mpi")), device="strict", look=look,
        seed=world().rank)
    step()
    transfers.reset()
    norms = [step(), step()]
    found = {name: value for name, value in asdict(transfers).items() if not name.startswith("bytes")}
    buckets = len(step.model._reducer.buckets)
    assert buckets > 1
    assert found == {"from_host": 2 * (2 + buckets), "to_host": 2 * buckets, "scalars": 2 * 2}
    everyone = world().allgather_bytes(repr([norm.item() for norm in norms]).encode())
    assert all(each == everyone[0] for each in everyone)
    step.model.close()
