"""What is refused on real ranks: on every one of them, and the ranks stay together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, world
from tests.distributed.models import flat

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(60)]
over = pytest.mark.parametrize("transport", ["shared", "wire"])


def outcomes(body: Callable[[], object]) -> list[tuple[str, str]]:
    """Type and text of what every rank raised; then all of them train a step together."""
    comm = world()
    kind = text = ""
    try:
        body()
    except Exception as error:
        kind, text = type(error).__name__, str(error)
    model = DataParallel(nn.Linear(2, 1))
    model(distgrad.full((1, 2), float(comm.rank))).sum().backward()
    np.testing.assert_allclose(model.weight.grad, (comm.size - 1) / 2)
    model.close()
    kinds, texts = (comm.allgather_bytes(part.encode()) for part in (kind, text))
    return [(a.decode(), b.decode()) for a, b in zip(kinds, texts, strict=True)]


def wrap(transport: str) -> DataParallel:
    return DataParallel(nn.Linear(130, 70), transport=transport.replace("wire", "mpi"), bucket_bytes=1)


@pytest.mark.parametrize(("which", "kind", "word"), [
    ("null", "ValueError", "null"), ("freed", "ValueError", "freed"), ("between groups", "TypeError", "intercomm")])
def test_communicators_that_will_not_do(which: str, kind: str, word: str) -> None:
    from mpi4py import MPI

    everyone = MPI.COMM_WORLD
    group = everyone.Split(everyone.rank == 0)
    comm: Any = MPI.COMM_NULL
    if which == "freed":
        comm = everyone.Dup()
        comm.Free()
    elif which == "between groups":
        comm = group.Create_intercomm(0, everyone, 1 if everyone.rank == 0 else 0)
    for found_kind, text in outcomes(lambda: DataParallel(nn.Linear(1, 1), comm=comm)):
        assert found_kind == kind and word in text.lower(), (found_kind, text)
    if which == "between groups":
        comm.Free()
    group.Free()


@over
def test_a_loss_of_one_rank_that_does_not_depend_on_the_model(transport: str) -> None:
    last = world().size - 1

    def body() -> None:
        model = wrap(transport)
        loss = model(distgrad.ones(1, 130)).sum()
        try:
            model.backward(distgrad.ones(1, requires_grad=True).sum() if world().rank == last else loss)
        finally:
            model.close()

    found = outcomes(body)
    assert found[last][0] == "RuntimeError" and "does not depend" in found[last][1]
    for kind, text in found[:last]:
        assert kind == "RankFailedError" and f"rank {last}" in text and "does not depend" in text, (kind, text)


@over
def test_a_backward_that_raises_on_one_rank(transport: str) -> None:
    last = world().size - 1

    def body() -> None:
        model = wrap(transport)
        loss = model(distgrad.ones(1, 130)).sum()
        if world().rank == last:
            model.bias.register_hook(lambda _g: {}["mine"])
        try:
            loss.backward()
        finally:
            model.close()

    found = outcomes(body)
    assert found[last] == ("KeyError", "'mine'")
    for kind, text in found[:last]:
        assert kind == "RankFailedError" and f"rank {last}: KeyError: 'mine'" in text, (kind, text)


@over
def test_writing_to_sharded_parameters(transport: str) -> None:
    comm = world()
    model = wrap(transport)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.1)
    before = flat(model)
    with distgrad.no_grad(), pytest.raises(RuntimeError, match="writable"):
        model.weight.mul_(2)
    with pytest.raises(RuntimeError, match="read-only"):
        model.weight.data[...] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        model.weight.detach().numpy()[0] = 1.0
    np.testing.assert_array_equal(flat(model), before)
    comm.barrier()  # all have looked
    with optimizer.writable(), distgrad.no_grad():
        model.weight.fill_(3.0)
    np.testing.assert_array_equal(model.weight.detach(), 3.0)
    model.close()
