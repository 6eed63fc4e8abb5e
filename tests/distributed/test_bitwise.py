"""n ranks equal one rank that takes their micro-batches in order, bit by bit and step by step.

Only the order of ranks may count: not how gradients travel, in which buckets, whether while backward
runs, and not who updates the parameters.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from distgrad import simulate
from tests.distributed.models import LARGE, STEPS, Trace, lockstep

SMALL, LARGE_BUCKETS = 1, 1 << 30  # bytes: a grid block a bucket, and all in one
WAYS: list[dict[str, Any]] = [
    {"transport": "shared", "bucket_bytes": SMALL, "sharded": True},
    {"transport": "mpi", "bucket_bytes": 1 << 15, "plain": True},
    {"transport": "shared", "bucket_bytes": LARGE_BUCKETS, "overlap": False},
    {"transport": "mpi", "bucket_bytes": LARGE_BUCKETS, "overlap": False, "sharded": True},
    {"transport": "shared", "bucket_bytes": 1 << 15, "sharded": True, "plain": True},
    {"transport": "mpi", "bucket_bytes": SMALL, "sharded": True},
    {"transport": "shared", "bucket_bytes": SMALL, "plain": True},
    {"transport": "mpi", "bucket_bytes": 1 << 15, "overlap": False},
    {"transport": "shared", "bucket_bytes": 1 << 15, "overlap": False, "sharded": True},
]


@cache
def alone(name: str, dtype: str, ranks: int) -> Trace:
    """The reference: one rank, all micro-batches, the ordinary optimizer."""
    (found,) = simulate(1)(lambda rank: lockstep(name, dtype, list(range(ranks)), ranks))
    assert len(found.parameters) == STEPS >= 10
    assert min(found.norms) > found.max_norm, "clipping was not vacuous"
    assert len({parameters.tobytes() for parameters in found.parameters}) == STEPS, "every step moves the parameters"
    return found


def compare(name: str, dtype: str, ranks: int, way: dict[str, Any]) -> None:
    expected = alone(name, dtype, ranks)
    for rank, run in enumerate(simulate(ranks)(lambda rank: lockstep(name, dtype, [rank], ranks, **way))):
        assert run.transport == way["transport"]
        assert run.norms == expected.norms
        assert run.losses == expected.losses[rank::ranks]
        for step, (mine, theirs) in enumerate(zip(run.parameters, expected.parameters, strict=True)):
            assert mine.dtype == dtype
            np.testing.assert_array_equal(mine, theirs, err_msg=f"rank {rank}, step {step}")


@pytest.mark.parametrize("name", sorted(LARGE))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_ranks_equal_one_rank_on_their_micro_batches(name: str, dtype: str, ranks: int) -> None:
    """Each combination takes some of the ways, and each way meets every model, dtype and number of ranks."""
    turn = sorted(LARGE).index(name) + 3 * ["float32", "float64"].index(dtype) + [2, 3, 4, 8].index(ranks)
    for way in WAYS[turn % 5::5]:
        compare(name, dtype, ranks, way)
