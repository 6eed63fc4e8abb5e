"""Unused parameters, branches, GANs, recomputation and their like need no flag: ranks equal one process."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim, simulate
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, world
from tests.distributed.models import flat
from tests.distributed.parties import Alone, Together, compare
from tests.distributed.scenarios import REPLICATED, SCENARIOS, play


@cache
def alone(name: str, ranks: int) -> list[dict[str, Any]]:
    (notes,) = simulate(1)(lambda rank: play(name, Alone(ranks)))
    return notes


@pytest.mark.parametrize(("name", "sharded"), [(name, sharded) for name in sorted(SCENARIOS)
                                               for sharded in (False, True) if not sharded or name not in REPLICATED])
@pytest.mark.parametrize(("ranks", "transport"), [(2, "shared"), (3, "shared"), (2, "mpi"), (3, "mpi"), (3, "lanes")])
def test_ranks_equal_one_process(name: str, sharded: bool, ranks: int, transport: str) -> None:
    # Small buckets, so that a layer more or less changes which are complete, and when.
    options: dict[str, Any] = {"bucket_bytes": 1 if ranks == 2 else 1 << 15}
    if transport != "lanes":
        options["transport"] = transport
    results = simulate(ranks, [2, 1] if transport == "lanes" else None)(
        lambda rank: play(name, Together(rank, ranks, sharded, look=ranks == 2, **options)))
    for notes in results:
        compare(notes, alone(name, ranks))
        for mine, theirs in zip(notes, results[0], strict=True):
            for p, q in zip(mine["parameters"], theirs["parameters"], strict=True):
                np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("transport", ["shared", "wire"])
@pytest.mark.parametrize("how", ["step", "writable"])
def test_parameters_stand_still_until_every_rank_has_come_to_the_update(how: str, transport: str) -> None:
    """A rank that is late, for it evaluates something between backward and step, does so with the old parameters."""
    def body(rank: int) -> None:
        model = DataParallel(nn.Linear(200, 100), transport=transport.replace("wire", "mpi"))
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=1.0)
        model(distgrad.ones(1, 200)).sum().backward()
        before = flat(model)
        world().barrier()
        if rank == 1:
            time.sleep(0.05)
        np.testing.assert_array_equal(flat(model), before)
        if how == "step":
            optimizer.step()
        else:
            with optimizer.writable(), distgrad.no_grad():
                model.weight.add_(1.0)
                model.bias.add_(1.0)
        after = flat(model)
        assert (after != before).all(), "and then all of them are new"

    simulate(3)(body)
