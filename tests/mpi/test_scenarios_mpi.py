"""Branches, GANs, recomputation and their like on real ranks: no flags, and the numbers of one process."""

from __future__ import annotations

import pytest

from distgrad.distributed import world
from tests.distributed.parties import Alone, Together, compare
from tests.distributed.scenarios import REPLICATED, SCENARIOS, play

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(60)]


@pytest.mark.parametrize("name", sorted(SCENARIOS))
@pytest.mark.parametrize("transport", ["shared", "wire"])
def test_ranks_equal_one_process(name: str, transport: str) -> None:
    comm = world()
    sharded = transport == "shared" and name not in REPLICATED
    party = Together(comm.rank, comm.size, sharded, look=comm.size == 2, transport=transport.replace("wire", "mpi"),
                     bucket_bytes=1)
    compare(play(name, party), play(name, Alone(comm.size)))
