"""Real ranks equal one rank that takes their micro-batches in order, bit by bit and step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distgrad.distributed import world
from tests.distributed.models import LARGE, lockstep

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(60)]
WAYS: dict[str, dict[str, Any]] = {
    "small buckets of memory": {"transport": "shared", "bucket_bytes": 1, "sharded": True},
    "plain over the wire": {"transport": "mpi", "bucket_bytes": 1 << 15, "sharded": True, "plain": True},
    "replicated": {"transport": "shared", "bucket_bytes": 1 << 30, "overlap": False},
}


@pytest.mark.parametrize("name", sorted(LARGE))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranks_equal_one_rank_on_their_micro_batches(name: str, dtype: str) -> None:
    from mpi4py import MPI

    comm = world()
    ways = sorted(WAYS)
    if dtype == "float64":  # one is enough to see that the dtype does not matter
        ways = ways[sorted(LARGE).index(name):][:1]
    expected = lockstep(name, dtype, list(range(comm.size)), comm.size, comm=MPI.COMM_SELF)
    assert min(expected.norms) > expected.max_norm, "clipping was not vacuous"
    for way in ways:
        run = lockstep(name, dtype, [comm.rank], comm.size, **WAYS[way])
        assert run.transport == WAYS[way]["transport"]
        assert run.norms == expected.norms, way
        for step, (mine, theirs) in enumerate(zip(run.parameters, expected.parameters, strict=True)):
            assert mine.dtype == dtype
            np.testing.assert_array_equal(mine, theirs, err_msg=f"{way}, step {step}")
