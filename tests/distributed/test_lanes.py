"""DataParallel over several nodes, simulated: the same bits as sums grouped by node, whatever the lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, simulate
from distgrad.comm import LocalCommunicator, topology
from distgrad.distributed import DataParallel, world
from distgrad.errors import RankFailedError
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed import models
from tests.distributed.models import MODELS, batch, flat, train

NODES = [[2, 2], [2, 1], [3, 1], [1, 1, 1], [4, 4], [2, 5]]
pytestmark = pytest.mark.timeout(100)


def grouped_mean(parts: list[np.ndarray], nodes: list[int]) -> np.ndarray:
    """((g0 + g1) + (g2 + g3)) / 4; float16 in float32, rounded once."""
    wide = [part.astype("f4") if part.dtype == np.float16 else part for part in parts]
    sums, first = [], 0
    for count in nodes:
        total = wide[first].copy()
        for part in wide[first + 1:first + count]:
            total += part
        sums.append(total)
        first += count
    total = sums[0]
    for more in sums[1:]:
        total = total + more
    return (total / total.dtype.type(len(parts))).astype(parts[0].dtype)


def one_backward(name: str, rank: int, ranks: int, dtype: str, options: dict[str, Any] | None) -> Any:
    """The gradients, their norm, and the kind of transport."""
    distgrad.manual_seed(3)
    model: Any = MODELS[name]().to(dtype)
    if options is not None:
        model = DataParallel(model, **options)
    x, y = batch(name, rank, ranks, 0)
    nn.functional.cross_entropy(model(x.to(dtype) if name != "lstm" else x), y).backward()
    found = flat(model, grad=True)
    if options is None:
        return found
    norm = clip_grad_norm_(model.parameters(), 1e30).numpy().copy()
    kind, noted = model.transport, all(g.partials is not None for g in model._groups)
    model.close()
    return found, norm, kind, noted


@pytest.mark.parametrize("nodes", NODES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bucket_bytes", [1, 1 << 17])
def test_the_bits_are_those_of_sums_grouped_by_node(nodes: list[int], dtype: str, bucket_bytes: int) -> None:
    ranks = sum(nodes)
    parts = simulate(ranks)(lambda rank: one_backward("wide", rank, ranks, dtype, None))
    expected = grouped_mean(parts, nodes)
    if nodes == [2, 2] and dtype != "float16":
        assert (expected != grouped_mean(parts, [4])).any(), "another grouping would show"
    results = simulate(ranks, nodes)(lambda rank: one_backward("wide", rank, ranks, dtype,
                                                               {"bucket_bytes": bucket_bytes}))
    for grads, norm, kind, noted in results:
        assert kind == "lanes"
        np.testing.assert_array_equal(grads, expected)
        assert noted, "the norm came with the reduction"
        assert norm == results[0][1]
        tolerance = 1e-3 if dtype == "float16" else 1e-6
        np.testing.assert_allclose(norm, np.linalg.norm(expected.astype("f8")), rtol=tolerance)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("nodes", NODES[:5], ids=str)
def test_master(name: str, nodes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """n ranks on shards == one rank on the whole batch, in lock-step, with clipping that bites; same bits for all."""
    monkeypatch.setattr(models, "BATCH", 24)  # every number of ranks here divides it
    ranks = sum(nodes)
    alone = train(name, 0, 1, None)
    runs = [simulate(ranks, nodes)(lambda rank, o=o: train(name, rank, ranks, o)) for o in (
        {"bucket_bytes": 1 << 15}, {"bucket_bytes": 1 << 30, "overlap": False, "transport": "shared"})]
    first = runs[0][0]
    for run in runs[0] + runs[1]:
        assert run.norms == first.norms
        np.testing.assert_array_equal(run.parameters, first.parameters)
    np.testing.assert_allclose(first.parameters, alone.parameters, rtol=1e-9, atol=1e-11)
    assert min(alone.norms) > alone.max_norm, "clipping was not vacuous"


def test_ranks_dealt_out_round_robin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks 0, 2 on one machine, 1, 3 on the other: sums are grouped by machine, in the order of first ranks."""
    def machine(comm: Any) -> bytes:
        return b"odd" if comm.ranks[comm.rank] % 2 else b"even"

    monkeypatch.setattr(LocalCommunicator, "machine", property(machine, lambda comm, value: None), raising=False)
    parts = simulate(4)(lambda rank: one_backward("wide", rank, 4, "float32", None))

    def body(rank: int) -> Any:
        assert topology.nodes(world()) == ((0, 2), (1, 3))
        return one_backward("wide", rank, 4, "float32", {"bucket_bytes": 1 << 15})[0]

    for found in simulate(4)(body):
        np.testing.assert_array_equal(found, grouped_mean([parts[i] for i in (0, 2, 1, 3)], [2, 2]))


class Branches(nn.Module):
    """Each rank uses one layer of its own; the last belongs to nobody."""

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(70, 70) for _ in range(ranks + 1)])

    def forward(self, x: Any, which: int) -> Any:
        return self.layers[which](x)


@pytest.mark.parametrize("nodes", NODES[:4], ids=str)
def test_branches_no_sync_and_several_backwards(nodes: list[int]) -> None:
    ranks = sum(nodes)

    def body(rank: int) -> None:
        distgrad.manual_seed(0)
        model = DataParallel(Branches(ranks), bucket_bytes=1)
        for step in range(3):
            model.zero_grad()
            model(distgrad.ones(1, 70), (rank + step) % ranks).sum().backward()
            for layer in list(model.layers)[:-1]:
                np.testing.assert_allclose(layer.weight.grad, 1 / ranks, rtol=1e-6)
            assert model.layers[ranks].weight.grad is None
        model.zero_grad()
        with model.no_sync():
            model(distgrad.full((1, 70), float(rank)), 0).sum().backward()
        np.testing.assert_array_equal(model.layers[0].bias.grad, 1.0)
        model(distgrad.full((1, 70), 10.0 * rank), 0).sum().backward()
        mean = 11 * (ranks - 1) / 2
        np.testing.assert_allclose(model.layers[0].weight.grad, mean, rtol=1e-6)
        model(distgrad.full((1, 70), float(rank)), 0).sum().backward()  # joins what was reduced
        np.testing.assert_allclose(model.layers[0].weight.grad, mean + (ranks - 1) / 2, rtol=1e-6)
        model.close()

    simulate(ranks, nodes)(body)


@pytest.mark.parametrize("nodes", NODES[:4], ids=str)
def test_weighted_means(nodes: list[int]) -> None:
    """sum(n_i g_i) / sum(n_i) over ranks, steps and calls that were reduced already; a rank without data takes part."""
    ranks = sum(nodes)

    def body(rank: int) -> tuple[np.ndarray, np.ndarray]:
        distgrad.manual_seed(0)
        model = DataParallel(MODELS["wide"]().double(), bucket_bytes=1 << 16)
        x, y = (t.numpy() for t in batch("wide", 0, 1, 0))
        cuts = np.r_[0, np.sort(np.random.default_rng(0).integers(0, len(x), 2 * ranks - 2)), len(x), len(x)]
        for call in range(2):  # the last rank's second part is empty
            part = slice(*cuts[2 * rank + call:2 * rank + call + 2])
            count = part.stop - part.start
            loss = None if not count else nn.functional.cross_entropy(
                model(distgrad.tensor(x[part])), distgrad.tensor(y[part]))
            model.backward(loss, weight=int(count))
        found = flat(model, grad=True)
        model.close()
        model.module.zero_grad()
        nn.functional.cross_entropy(model.module(distgrad.tensor(x)), distgrad.tensor(y)).backward()
        return found, flat(model.module, grad=True)

    results = simulate(ranks, nodes)(body)
    for found, expected in results:
        np.testing.assert_array_equal(found, results[0][0])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("nodes", [[2, 2], [2, 1]], ids=str)
def test_ranks_that_disagree_or_raise_are_named_and_nobody_hangs(nodes: list[int]) -> None:
    ranks = sum(nodes)

    def mixed(rank: int) -> None:
        model = DataParallel(nn.Linear(2, 2))
        loss = model(distgrad.ones(1, 2)).sum()
        if rank == ranks - 1:
            model.backward(loss, weight=3)
        else:
            loss.backward()

    with pytest.raises(RankFailedError, match="called"):
        simulate(ranks, nodes)(mixed)

    def raising(rank: int) -> float:
        model = DataParallel(nn.Linear(2, 1))

        def hook(g: Any) -> None:
            raise KeyError("mine")

        h = model(distgrad.ones(1, 2))
        if rank == ranks - 1:
            h.register_hook(hook)
        with pytest.raises((KeyError, RankFailedError), match="mine"):
            h.sum().backward()
        model.zero_grad()
        model(distgrad.full((1, 2), 2.0)).sum().backward()
        return model.weight.grad.sum().item()

    assert simulate(ranks, nodes)(raising) == [4.0] * ranks


def test_two_models_that_interleave() -> None:
    """A GAN's pattern over two nodes: every backward reaches both models."""
    def body(rank: int) -> Any:
        distgrad.manual_seed(0)
        first, second = (DataParallel(MODELS["wide"](), bucket_bytes=1 << 14) for _ in range(2))
        x, _ = batch("wide", rank, 4, 0)
        x = x.float()
        for _ in range(3):
            (second(first(x) @ distgrad.ones(3, 8)).sum() + first(x).sum()).backward()
        return flat(first, grad=True), flat(second, grad=True)

    results = simulate(4, [2, 2])(body)
    for a, b in results[1:]:
        np.testing.assert_array_equal(a, results[0][0])
        np.testing.assert_array_equal(b, results[0][1])


def test_where_a_node_cannot_share_memory_the_wire_carries(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    from distgrad.comm import shared

    plain = shared.NodeMemory
    monkeypatch.setattr(shared, "NodeMemory", lambda comm, *rest: "no memory on the second machine"
                        if comm.ranks[0] == 2 else plain(comm, *rest))

    def body(rank: int) -> Any:
        model = DataParallel(nn.Linear(2, 1, bias=False))
        model(distgrad.full((1, 2), float(rank))).sum().backward()
        return model.transport, model.weight.grad[0, 0].item()

    assert simulate(4, [2, 2])(body) == [("mpi", 1.5)] * 4
    assert capfd.readouterr().err.count("no memory on the second machine") == 1
    with pytest.raises(RuntimeError, match="not possible here: no memory"):
        simulate(4, [2, 2])(lambda rank: DataParallel(nn.Linear(2, 1), transport="shared"))
