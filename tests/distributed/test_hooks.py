"""Comm hooks that compress: the same bits on all ranks, half the bytes, sums in float32; and hooks of one's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim, simulate
from distgrad.comm import deadline
from distgrad.distributed import DataParallel, mean_hook, world
from distgrad.distributed.hooks import (
    PowerSGDState,
    acts_between_nodes,
    between_nodes,
    bf16_compress_hook,
    bf16_compress_wrapper,
    fp16_compress_hook,
    fp16_compress_wrapper,
)
from distgrad.distributed.turns import name_of
from distgrad.errors import CollectiveMismatchError
from distgrad.flat import GRID
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed.hook_cases import Given, assert_alike, count_bytes, drawn, reduced
from tests.distributed.models import batch, flat, parameters_of, wide

NODES = [[2, 2], [2, 1], [1, 1, 1], [3, 2], [4]]
FORMATS = {"bf16": (bf16_compress_hook, 2.0 ** -8), "fp16": (fp16_compress_hook, 2.0 ** -11)}
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hangs is to be heard of soon."""
    monkeypatch.setattr(deadline, "config", deadline.config.__class__(soft_timeout=None, hard_timeout=10.0))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("nodes", NODES, ids=str)
@pytest.mark.parametrize(("transport", "bucket_bytes"), [("auto", 1), ("auto", 1 << 16), ("mpi", 1 << 16)])
def test_sixteen_bits_on_the_wire(name: str, nodes: list[int], transport: str, bucket_bytes: int) -> None:
    """The same bits everywhere, within two roundings of the mean, and those squares noted that belong to it."""
    hook, unit = FORMATS[name]
    ranks = sum(nodes)
    given = drawn(ranks, (70, 90), (333,), (40, 200))
    options: dict[str, Any] = {"hook": hook, "transport": transport, "bucket_bytes": bucket_bytes}

    def body(rank: int) -> Any:
        model = DataParallel(Given((70, 90), (333,), (40, 200)), **options)
        found = reduced(model, *given[rank])
        noted = model._groups[0].partials
        norm = clip_grad_norm_(model.parameters(), 1e30).item()
        squares = (model._groups[0].flat.astype("f8").reshape(-1, GRID) ** 2).sum(1)
        kind = model.transport
        model.close()
        return found, noted, squares, norm, kind

    results = simulate(ranks, nodes)(body)
    assert_alike([found for found, *_ in results])
    for found, noted, squares, norm, kind in results:
        assert kind == ("mpi" if transport == "mpi" else "shared" if len(nodes) == 1 else "lanes")
        assert norm == results[0][3]
        if kind != "mpi":
            np.testing.assert_allclose(noted, squares, rtol=1e-12)
        parts = [np.mean(parts, 0, dtype="f8") for parts in zip(*given, strict=True)]
        for mine, exact, *theirs in zip(found, parts, *given, strict=True):
            bound = 5e-7 * np.mean(np.abs(theirs), 0)
            if kind != "shared":  # each contribution is rounded, and then the mean
                bound += 1.01 * unit * (np.abs(exact) + np.sum(np.abs(theirs), 0) / ranks)
            assert (np.abs(mine - exact) <= bound).all()
            assert kind == "shared" or (np.abs(mine - exact) > 1e-6).any(), "it was not compressed"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("transport", ["auto", "mpi"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_what_sixteen_bits_can_hold_is_exact(name: str, transport: str, dtype: str) -> None:
    integers = np.random.default_rng(1).integers(-12, 12, (4, 100, 90)) * 4
    given = integers.astype(dtype) * (1 + 2j if dtype == "complex64" else 1)

    def body(rank: int) -> Any:
        model = DataParallel(Given((100, 90), dtype=dtype), hook=FORMATS[name][0], transport=transport, bucket_bytes=1)
        if dtype == "complex64":
            model(given[rank].conj()).real.backward()
            return parameters_of(model, grad=True)
        return reduced(model, given[rank])

    for found, in simulate(4, [2, 2])(body):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, given.mean(0))


def test_the_sum_is_taken_in_float32() -> None:
    """256 + 1 + 1 + 2: in bfloat16 each 1 would be lost, and the mean would be 64.5."""
    def body(rank: int) -> Any:
        model = DataParallel(Given((5,)), hook=bf16_compress_hook)
        found, = reduced(model, np.full(5, [256, 1, 1, 2][rank], "f4"))
        return found

    for found in simulate(4, [1, 1, 1, 1])(body):
        np.testing.assert_array_equal(found, 65.0)


@pytest.mark.filterwarnings("ignore:invalid value")  # of the forward
def test_what_is_no_number_stays_none_and_float16_overflows() -> None:
    given = np.array([[np.nan, 1, np.inf, -np.inf, 70000, 1e-30], [1, 2, 1, 1, 70000, 1e-30]], "f4")

    def body(rank: int, hook: Any) -> Any:
        return reduced(DataParallel(Given((6,)), hook=hook), given[rank])[0]

    for found in simulate(2, [1, 1])(lambda rank: body(rank, bf16_compress_hook)):
        np.testing.assert_array_equal(found[:4], [np.nan, 1.5, np.inf, -np.inf])
        np.testing.assert_allclose(found[4:], [70000, 1e-30], rtol=2.0 ** -8)
    for found in simulate(2, [1, 1])(lambda rank: body(rank, fp16_compress_hook)):
        np.testing.assert_array_equal(found, [np.nan, 1.5, np.inf, -np.inf, np.inf, 0])


@pytest.mark.parametrize("hook", [bf16_compress_hook, fp16_compress_hook], ids=["bf16", "fp16"])
@pytest.mark.parametrize("nodes", [[2, 2], [2, 1], [1, 1, 1]], ids=str)
def test_half_the_bytes_cross(hook: Any, nodes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    counted = count_bytes(monkeypatch)
    ranks, shape = sum(nodes), (40 * GRID,)
    given = drawn(ranks, shape)

    def bytes_of(chosen: Any) -> int:
        def body(rank: int) -> None:
            model = DataParallel(Given(shape), hook=chosen)
            world().barrier()
            counted.clear()
            world().barrier()
            reduced(model, *given[rank])

        simulate(ranks, nodes)(body)
        return sum(counted)

    plain, compressed = bytes_of(None), bytes_of(hook)
    expected = 2 * 40 * GRID * 4 * (len(nodes) - 1)
    assert expected <= plain <= 1.01 * expected
    assert 0.49 * plain < compressed < 0.505 * plain


def test_on_one_node_nothing_crosses_and_nothing_is_rounded() -> None:
    given = drawn(3, (50, 100))

    def body(rank: int, hook: Any) -> Any:
        model = DataParallel(Given((50, 100)), hook=hook)
        return model.transport, reduced(model, *given[rank])[0]

    plain = simulate(3)(lambda rank: body(rank, None))
    for hook in (bf16_compress_hook, fp16_compress_hook, PowerSGDState(start_powerSGD_iter=0)):
        for (kind, found), (_, expected) in zip(simulate(3)(lambda rank, h=hook: body(rank, h)), plain, strict=True):
            assert kind == "shared"
            np.testing.assert_array_equal(found, expected)
    model = DataParallel(Given((50, 100)), hook=bf16_compress_hook)
    np.testing.assert_array_equal(reduced(model, *given[0])[0], given[0][0])
    model.close()


@pytest.mark.parametrize("hook", [bf16_compress_hook, fp16_compress_hook,
                                  PowerSGDState(start_powerSGD_iter=0, matrix_approximation_rank=3)],
                         ids=["bf16", "fp16", "PowerSGD"])
@pytest.mark.parametrize("nodes", [[2, 2], [2, 1], [4]], ids=str)
@pytest.mark.parametrize("transport", ["auto", "mpi"])
def test_weighted_means(hook: Any, nodes: list[int], transport: str) -> None:
    """sum(n_i g_i) / sum(n_i), over two calls that join; the last rank has no data in the second one."""
    ranks = sum(nodes)
    weights = np.random.default_rng(3).integers(1, 40, (2, ranks))
    weights[1, -1] = 0
    rng = np.random.default_rng(4)
    left = rng.standard_normal((2, ranks, 60, 1))
    given = (left @ rng.standard_normal((1, 50))).astype("f4")  # all ranks' matrices have their rows in common
    expected = (weights[..., None, None] * given.astype("f8")).sum((0, 1)) / weights.sum()

    def body(rank: int) -> Any:
        model = DataParallel(Given((60, 50)), hook=hook, transport=transport, bucket_bytes=1)
        for _ in range(2):  # the second step finds what the first one left
            model.zero_grad()
            for call in range(2):
                weight = int(weights[call, rank])
                model.backward(model(given[call, rank]) if weight else None, weight)
        return parameters_of(model, grad=True)

    results = simulate(ranks, nodes)(body)
    assert_alike(results)
    scale = np.abs(weights[..., None, None] * given).sum((0, 1)).max() / weights.sum()
    tolerance = {"b": 2.0 ** -7, "f": 2.0 ** -10, "P": 1e-5}[str(getattr(hook, "__name__", hook))[0]]
    np.testing.assert_allclose(results[0][0], expected, rtol=0, atol=tolerance * scale)


def test_two_backwards_add_up_and_branches_differ() -> None:
    def body(rank: int) -> Any:
        model = DataParallel(Given((30, 40), (7,)), hook=bf16_compress_hook, bucket_bytes=1)
        for scale in (1, 2):
            (model.module.parts[rank % 2] * (scale * (rank + 1))).sum()
            model(np.full((30, 40), scale * rank, "f4"), np.full(7, scale, "f4")).backward()
        return parameters_of(model, grad=True)

    for first, second in simulate(4, [2, 2])(body):
        np.testing.assert_array_equal(first, 4.5)
        np.testing.assert_array_equal(second, 3.0)


@pytest.mark.parametrize("hook", [None, bf16_compress_hook, fp16_compress_hook,
                                  lambda: PowerSGDState(matrix_approximation_rank=2, start_powerSGD_iter=5),
                                  lambda: bf16_compress_wrapper(PowerSGDState(matrix_approximation_rank=2,
                                                                              start_powerSGD_iter=5))],
                         ids=["none", "bf16", "fp16", "PowerSGD", "both"])
def test_training_goes_about_as_well(hook: Any) -> None:
    if not (hook is None or hasattr(hook, "between_nodes")):
        hook = hook()

    def body(rank: int) -> Any:
        distgrad.manual_seed(3)
        model = DataParallel(wide(), hook=hook, bucket_bytes=1 << 16)
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses = []
        for step in range(50):
            x, y = batch("wide", rank, 4, step % 3)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x.float()), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return np.array(losses), flat(model)

    results = simulate(4, [2, 2])(body)
    for _, parameters in results:
        np.testing.assert_array_equal(parameters, results[0][1])
    losses = np.mean([losses for losses, _ in results], 0)
    assert losses[0] > 1 and losses[-3:].mean() < 0.01  # without a hook 0.004


def test_a_hook_that_acts_between_nodes_gets_the_nodes_sums() -> None:
    seen: list[Any] = []

    @between_nodes
    def mine(bucket: Any, comm: Any) -> Any:
        seen.append((comm.size, bucket.begin, bucket.end, bucket.send.copy()))
        return mean_hook(bucket, comm)

    def body(rank: int, hook: Any) -> Any:
        model = DataParallel(Given((4 * GRID,)), hook=hook)
        return model.transport, reduced(model, np.full(4 * GRID, 10.0 ** rank, "f4"))[0]

    for kind, found in simulate(4, [2, 2])(lambda rank: body(rank, mine)):
        assert kind == "lanes"
        np.testing.assert_array_equal(found, 1111 / 4)
    assert sorted((size, begin, end) for size, begin, end, _ in seen) == [(2, 0, 2 * GRID)] * 2 + [
        (2, 2 * GRID, 4 * GRID)] * 2
    assert sorted(send[0] for *_, send in seen) == [11, 11, 1100, 1100]
    seen.clear()
    undeclared = lambda bucket, comm: mine(bucket, comm)
    for kind, found in simulate(4, [2, 2])(lambda rank: body(rank, undeclared)):
        assert kind == "mpi"
        np.testing.assert_array_equal(found, 1111 / 4)
    assert [size for size, *_ in seen] == [4] * 4
    with pytest.raises(ValueError, match="comm hook"):
        simulate(4, [2, 2])(lambda rank: DataParallel(nn.Linear(2, 2), transport="shared", hook=undeclared))
    assert simulate(4, [2, 2])(lambda rank: DataParallel(nn.Linear(2, 2), transport="shared", hook=mine).transport) == [
        "lanes"] * 4


def test_hooks_of_weighted_backwards_give_means() -> None:
    """A hook of the user's need not know of weights, over the wire neither."""
    def body(rank: int, hook: Any) -> Any:
        model = DataParallel(Given((6,)), hook=hook)
        return [reduced(model, np.full(6, float(rank), "f4"), weight=weight)[0][0] for weight in (1 + 2 * rank, 1)]

    for hook in (between_nodes(lambda bucket, comm: mean_hook(bucket, comm)),
                 lambda bucket, comm: mean_hook(bucket, comm),
                 lambda bucket, comm: bucket.submit(lambda mean: comm.allreduce(bucket.send, bucket.recv, mean=mean))):
        for found in simulate(4, [2, 2])(lambda rank, h=hook: body(rank, h)):
            np.testing.assert_allclose(found, [(0 + 3 + 10 + 21) / 16, 1.5], rtol=1e-6)


def test_a_hook_that_waits_for_its_own_jobs() -> None:
    def patient(bucket: Any, comm: Any) -> Any:
        rounds = [bucket.submit(comm.allreduce, bucket.send, bucket.recv)]
        rounds[0].wait()
        bucket.recv *= 2
        rounds.append(bucket.submit(comm.allreduce, bucket.recv.copy(), bucket.recv))
        return rounds[-1]

    def body(rank: int, hook: Any) -> Any:
        model = DataParallel(Given((3 * GRID,), (5,)), hook=hook, bucket_bytes=1)
        return reduced(model, np.full(3 * GRID, float(rank), "f4"), np.full(5, 1.0, "f4"))

    for hook in (patient, between_nodes(lambda bucket, comm: patient(bucket, comm))):
        for first, second in simulate(4, [2, 2])(lambda rank, h=hook: body(rank, h)):
            np.testing.assert_array_equal(first, 3.0)
            np.testing.assert_array_equal(second, 2.0)


def test_compositions() -> None:
    """A wrapper takes over where its hook acts; the outer one decides what is on the wire."""
    given = drawn(4, (200, 40))

    def body(rank: int, hook: Any) -> Any:
        model = DataParallel(Given((200, 40)), hook=hook)
        return model.transport, *reduced(model, *given[rank])

    plain = simulate(4, [2, 2])(lambda rank: body(rank, bf16_compress_hook))
    wrapped = simulate(4, [2, 2])(lambda rank: body(rank, bf16_compress_wrapper(between_nodes(
        lambda bucket, comm: mean_hook(bucket, comm)))))
    for (kind, found), (_, expected) in zip(wrapped, plain, strict=True):
        assert kind == "lanes"
        np.testing.assert_array_equal(found, expected)
    for wrapper, unit in ((bf16_compress_wrapper, 2.0 ** -8), (fp16_compress_wrapper, 2.0 ** -11)):
        for kind, found in simulate(4, [2, 2])(lambda rank, w=wrapper: body(rank, w(mean_hook))):
            assert kind == "mpi", "mean_hook does not say that it acts between nodes"
            np.testing.assert_allclose(found, np.mean(given, (0, 1)), rtol=0, atol=2 * unit * np.abs(given).max())
    nested = bf16_compress_wrapper(fp16_compress_wrapper(mean_hook))
    assert repr(nested) == "bf16_compress_wrapper(fp16_compress_wrapper(mean_hook))"


def test_names_have_no_address_in_them() -> None:
    """Ranks compare them."""
    class Callable:
        def __call__(self, bucket: Any, comm: Any) -> Any:
            return mean_hook(bucket, comm)

    assert name_of(Callable()).endswith("Callable")
    assert name_of(partial(partial(mean_hook))) == "partial of mean_hook"
    assert name_of(bf16_compress_wrapper(Callable())).startswith("bf16_compress_wrapper(test_names")
    assert acts_between_nodes(partial(bf16_compress_hook)) and not acts_between_nodes(partial(mean_hook))
    assert not acts_between_nodes(Callable()) and acts_between_nodes(between_nodes(Callable()))


def test_ranks_with_different_hooks_are_named() -> None:
    def body(rank: int) -> None:
        DataParallel(nn.Linear(2, 2), hook=PowerSGDState(matrix_approximation_rank=1 + rank))

    with pytest.raises(CollectiveMismatchError, match="matrix_approximation_rank=2"):
        simulate(2, [1, 1])(body)
