"""Comm hooks on real ranks, over all of them and between pretended machines; on real hosts: tests/hosts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from distgrad.comm import Communicator, topology
from distgrad.distributed import DataParallel, simulate, world
from distgrad.distributed.hooks import (
    PowerSGDState,
    between_nodes,
    bf16_compress_hook,
    bf16_compress_wrapper,
    fp16_compress_hook,
)
from distgrad.errors import CollectiveMismatchError, RankFailedError
from distgrad.flat import GRID
from tests.distributed.hook_cases import WRONG, Given, reduced, sound
from tests.distributed.models import train

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(60)]
HOOKS: dict[str, Any] = {
    "bf16": lambda: bf16_compress_hook, "fp16": lambda: fp16_compress_hook,
    "PowerSGD": lambda: PowerSGDState(start_powerSGD_iter=2),
    "PowerSGD in bf16": lambda: bf16_compress_wrapper(PowerSGDState(start_powerSGD_iter=2)),
}


def halves() -> Communicator:
    """A duplicate of the world whose ranks are on two machines."""
    comm = world().dup()
    comm.machine = str(comm.rank * 2 // comm.size).encode()
    return comm


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("transport", ["lanes", "wire"])  # a test id "mpi" would be skipped by pytest-mpi
def test_the_bits_are_those_of_simulated_ranks(name: str, transport: str) -> None:
    comm = halves()
    options = {"bucket_bytes": 1 << 15, "transport": "auto" if transport == "lanes" else "mpi"}
    run = train("wide", comm.rank, comm.size, {"comm": comm, "hook": HOOKS[name](), **options})
    assert run.transport == ("lanes" if transport == "lanes" else "mpi")
    assert len(set(comm.allgather_bytes(run.parameters[-1].tobytes()))) == 1, "every rank has the same bits"
    counts = [len(ranks) for ranks in topology.nodes(comm)]
    hook = HOOKS[name]()
    other = simulate(comm.size, counts)(lambda rank: train("wide", rank, comm.size, {"hook": hook, **options}))
    np.testing.assert_array_equal(run.parameters, other[comm.rank].parameters)
    assert run.norms == other[comm.rank].norms
    comm.close()


def unchecked(bucket: Any, comm: Any) -> Any:
    """Nobody would notice if others were in another collective."""
    return bucket.submit(comm.allreduce, bucket.send, bucket.recv, checked=False)


def raises_beside_unchecked(bucket: Any, comm: Any) -> Any:
    raise KeyError("mine")


@pytest.mark.parametrize("wrong", [*WRONG, raises_beside_unchecked], ids=lambda hook: hook.__name__)
@pytest.mark.parametrize("between", [False, True], ids=["wire", "lanes"])
@pytest.mark.parametrize("which", [5, None], ids="bucket {}".format)
def test_a_wrong_hook_is_told_on_every_rank_and_training_goes_on(wrong: Any, between: bool, which: int | None) -> None:
    comm = halves()
    guilty = topology.nodes(comm)[-1][0]
    step = 0

    def hook(bucket: Any, wire: Any) -> Any:
        if step == 1 and comm.rank == guilty and which in (None, bucket.index):
            return wrong(bucket, wire)
        return (unchecked if wrong is raises_beside_unchecked else sound)(bucket, wire)

    if between:
        between_nodes(hook)
    model = DataParallel(Given((11 * GRID,), (GRID,)), comm=comm, hook=hook, bucket_bytes=2 * GRID * 4)
    kind, text = WRONG.get(wrong, (KeyError, "mine"))
    for step in range(4):
        given = np.full(11 * GRID, 8.0 * (comm.rank + step), "f4"), np.full(GRID, 3.0, "f4")
        if step == 1:
            with pytest.raises((kind, RankFailedError)) as caught:
                reduced(model, *given)
            assert re.search(text, str(caught.value))
            assert isinstance(caught.value, kind) == (comm.rank == guilty) or kind is CollectiveMismatchError
            continue
        first, second = reduced(model, *given)
        np.testing.assert_allclose(first, 8.0 * (step + (comm.size - 1) / 2), rtol=1e-6)
        np.testing.assert_allclose(second, 3.0, rtol=1e-6)
    model.close()
    comm.close()
