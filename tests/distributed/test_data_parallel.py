"""DataParallel on simulated ranks: means, names, branches, misuse; and the master test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim, simulate, tracing
from distgrad.distributed import DataParallel, get_rank, get_world_size, mean_hook, world
from distgrad.errors import CollectiveMismatchError
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed.models import MODELS, batch, flat, parameters_of, train


def test_the_world_of_a_simulated_rank() -> None:
    assert simulate(3)(lambda rank: (rank, get_rank(), get_world_size(), world().size)) == [
        (0, 0, 3, 3), (1, 1, 3, 3), (2, 2, 3, 3)]
    assert (get_rank(), get_world_size()) == (0, 1)


def test_simulated_ranks_have_their_own_modes_and_random_streams() -> None:
    def body(rank: int) -> tuple[bool, float]:
        if rank:
            distgrad.set_grad_enabled(False)
        distgrad.manual_seed(rank)
        world().barrier()
        return distgrad.is_grad_enabled(), distgrad.rand(1).item()

    (first, a), (second, b) = simulate(2)(body)
    assert first and not second and a != b
    assert distgrad.is_grad_enabled()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_gradients_are_the_mean_over_ranks(ranks: int) -> None:
    def body(rank: int) -> Any:
        distgrad.manual_seed(7)
        model = DataParallel(nn.Linear(3, 2))
        x = distgrad.full((4, 3), float(rank + 1))
        model(x).sum().backward()
        return parameters_of(model, grad=True)

    results = simulate(ranks)(body)
    expected = sum(range(1, ranks + 1)) / ranks * 4
    for weight, bias in results:
        np.testing.assert_allclose(weight, expected, rtol=1e-6)
        np.testing.assert_allclose(bias, 4.0, rtol=1e-6)
        np.testing.assert_array_equal(weight, results[0][0])


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("transport", ["shared", "mpi"])
@pytest.mark.parametrize(("ranks", "bucket_bytes", "overlap"), [(2, 1 << 14, True), (3, 1 << 30, True),
                                                                (4, 1 << 14, False)])
def test_master(name: str, ranks: int, bucket_bytes: int, overlap: bool, transport: str) -> None:
    """n ranks on shards == one rank on the whole batch, in lock-step, with clipping that bites."""
    alone = train(name, 0, 1, None)
    options = {"bucket_bytes": bucket_bytes, "overlap": overlap, "transport": transport}
    together = simulate(ranks)(lambda rank: train(name, rank, ranks, options))
    for run in together:
        assert run.norms == together[0].norms, "the norm has the same bits on every rank"
        for step, (mine, theirs) in enumerate(zip(run.parameters, alone.parameters, strict=True)):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11, err_msg=f"step {step}")
            np.testing.assert_array_equal(mine, together[0].parameters[step])
    np.testing.assert_allclose(np.mean([run.losses for run in together], 0), alone.losses, rtol=1e-9)
    assert min(alone.norms) > alone.max_norm, "clipping was not vacuous"
    assert alone.losses[-1] < alone.losses[0]


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_bits_depend_on_nothing_but_the_order_of_ranks(ranks: int) -> None:
    """Shared memory or wire, few or many buckets, overlap or none: the same bits, those of sums in rank order."""
    runs = [simulate(ranks)(lambda rank, o=o: train("mlp", rank, ranks, o)) for o in (
        {"transport": "shared", "bucket_bytes": 1 << 14}, {"transport": "mpi", "bucket_bytes": 1 << 20},
        {"transport": "shared", "bucket_bytes": 1 << 30, "overlap": False})]
    for run in runs[1:]:
        for mine, theirs in zip(run, runs[0], strict=True):
            assert mine.norms == theirs.norms
            np.testing.assert_array_equal(mine.parameters, theirs.parameters)


def test_the_norm_of_the_reduction_is_used_until_a_gradient_changes() -> None:
    def body(rank: int) -> Any:
        distgrad.manual_seed(rank)
        model = DataParallel(nn.Linear(40, 30), transport="shared")
        model(distgrad.randn(3, 40)).pow(2).sum().backward()
        group = model.weight.placement.group
        noted = group.partials
        clip_grad_norm_(model.parameters(), 1e9)
        untouched = clip_grad_norm_(model.parameters(), 1e9).item()
        with distgrad.no_grad():
            model.weight.grad.mul_(2.0)
        changed = clip_grad_norm_(model.parameters(), 1e9).item()
        only_bias = clip_grad_norm_([model.bias], 1e9).item()
        return noted is not None, untouched, changed, only_bias, flat(model, grad=True)

    for noted, untouched, changed, only_bias, grads in simulate(3)(body):
        weight, bias = grads[:1200].astype("f8"), grads[1200:].astype("f8")
        assert noted
        np.testing.assert_allclose(untouched, np.sqrt((weight / 2) @ (weight / 2) + bias @ bias), rtol=1e-6)
        np.testing.assert_allclose(changed, np.sqrt(weight @ weight + bias @ bias), rtol=1e-6)
        np.testing.assert_allclose(only_bias, np.linalg.norm(bias), rtol=1e-6)


@pytest.mark.parametrize("overlap", [True, False])
def test_buckets_leave_in_order_and_during_backward(overlap: bool) -> None:
    events: list[tuple[int, str, Any]] = []
    watched = ("bucket.launch", "first layer")

    def body(rank: int) -> None:
        model = DataParallel(nn.Sequential(*[nn.Linear(64, 64) for _ in range(6)]), bucket_bytes=1 << 14,
                             overlap=overlap)
        next(iter(model.parameters())).register_post_accumulate_grad_hook(
            lambda _p: tracing.instant("first layer", bucket=None))
        model(distgrad.randn(2, 64)).sum().backward()

    with tracing.listen(lambda e: events.append((e.thread, e.name, e.data.get("bucket")))):
        simulate(2)(body)
    for thread in {t for t, name, _ in events if name == "bucket.launch"}:
        mine = [(name, bucket) for t, name, bucket in events if t == thread and name in watched]
        launched = [bucket for name, bucket in mine if name == "bucket.launch"]
        assert launched == sorted(launched) and len(launched) == 7
        before = [b for _, b in mine[:mine.index(("first layer", None))]]
        assert bool(before) is overlap


def test_no_sync_accumulates_locally_and_reduces_the_sum() -> None:
    def body(rank: int) -> Any:
        model = DataParallel(nn.Linear(2, 1, bias=False))
        x = distgrad.full((1, 2), float(rank + 1))
        with model.no_sync():
            model(x).sum().backward()
            local = model.weight.grad.numpy().copy()
        model(x * 10).sum().backward()
        return local, model.weight.grad.numpy().copy()

    (local0, sum0), (local1, sum1) = simulate(2)(body)
    assert local0[0, 0] == 1 and local1[0, 0] == 2
    np.testing.assert_allclose(sum0, (11 + 22) / 2)
    np.testing.assert_array_equal(sum0, sum1)


def test_two_synced_backwards_add_up() -> None:
    def body(rank: int) -> Any:
        model = DataParallel(nn.Linear(2, 1, bias=False))
        for scale in (1.0, 10.0):
            model(distgrad.full((1, 2), scale * (rank + 1))).sum().backward()
        return model.weight.grad.numpy().copy()

    for found in simulate(3)(body):
        np.testing.assert_allclose(found, 22.0)


class Branches(nn.Module):
    """Uses one of two layers, never the third."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Any, left: bool) -> Any:
        return self.a(x) if left else self.b(x)


def test_branches_differ_per_rank_and_step_without_flags() -> None:
    def body(rank: int) -> Any:
        distgrad.manual_seed(0)
        model = DataParallel(Branches(), bucket_bytes=1)
        found = []
        for step in range(3):
            model.zero_grad()
            model(distgrad.ones(1, 2), left=(rank + step) % 2 == 0).sum().backward()
            found.append([None if p.grad is None else p.grad.numpy().copy() for p in model.parameters()])
        model.zero_grad()
        model(distgrad.ones(1, 2), left=True).sum().backward()
        found.append([None if p.grad is None else p.grad.numpy().copy() for p in model.parameters()])
        return found

    for steps in simulate(2)(body):
        for weight_a, bias_a, weight_b, bias_b, *unused in steps[:3]:
            np.testing.assert_allclose(weight_a, 0.5)
            np.testing.assert_allclose(bias_b, 0.5)
            assert unused == [None, None]
            assert weight_b is not None and bias_a is not None
        weight_a, _, weight_b, _, *_ = steps[3]
        np.testing.assert_allclose(weight_a, 1.0)
        assert weight_b is None, "unused on every rank: it stays None"


def test_two_models_with_two_optimizers() -> None:
    """A GAN's pattern: each step reaches the other model's leaves too."""
    def body(rank: int) -> Any:
        distgrad.manual_seed(0)
        generator, critic = DataParallel(nn.Linear(2, 2)), DataParallel(nn.Linear(2, 1))
        og, oc = optim.SGD(generator.parameters(), lr=0.1), optim.SGD(critic.parameters(), lr=0.1)
        distgrad.manual_seed(rank)
        for _ in range(4):
            z = distgrad.randn(3, 2)
            oc.zero_grad()
            (critic(generator(z).detach()).mean() - critic(z).mean()).backward()
            oc.step()
            og.zero_grad()
            (-critic(generator(z)).mean()).backward()
            og.step()
        return flat(generator), flat(critic)

    results = simulate(3)(body)
    for g, c in results[1:]:
        np.testing.assert_array_equal(g, results[0][0])
        np.testing.assert_array_equal(c, results[0][1])


def test_a_late_gradient_is_reduced_as_well() -> None:
    """A hook that runs another backward through a parameter whose bucket has left already."""
    def body(rank: int) -> Any:
        model = DataParallel(nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)), bucket_bytes=1)
        last, first = model.module[1].weight, model.module[0].weight

        @distgrad.enable_grad()
        def hook(_p: Any) -> None:
            (last * float(rank + 1)).sum().backward()

        first.register_post_accumulate_grad_hook(hook)
        with distgrad.no_grad():
            last.fill_(0.0)
        model(distgrad.zeros(1, 2)).sum().backward()
        return last.grad.numpy().copy()

    for found in simulate(2)(body):
        np.testing.assert_allclose(found, 1.5)


def test_clip_is_collective_and_counted_once() -> None:
    def body(rank: int) -> Any:
        distgrad.manual_seed(0)
        model = DataParallel(nn.Linear(50, 40).double())
        distgrad.manual_seed(rank)
        model(distgrad.randn(4, 50, dtype=distgrad.float64)).pow(2).sum().backward()
        before = flat(model, grad=True)
        norm = clip_grad_norm_(model.parameters(), max_norm=1.0)
        return before, norm.numpy(), flat(model, grad=True)

    for ranks in (1, 3, 4):
        results = simulate(ranks)(body)
        for before, norm, after in results:
            np.testing.assert_allclose(norm, np.linalg.norm(before), rtol=1e-12)
            np.testing.assert_array_equal(norm, results[0][1])
            np.testing.assert_allclose(after, before / (norm + 1e-6), rtol=1e-12)


def test_clip_before_reduction_is_refused() -> None:
    def body(rank: int) -> None:
        model = DataParallel(nn.Linear(2, 2))
        with model.no_sync():
            model(distgrad.ones(1, 2)).sum().backward()
        clip_grad_norm_(model.parameters(), 1.0)

    with pytest.raises(RuntimeError, match="no_sync"):
        simulate(2)(body)


def test_parameters_and_buffers_start_from_rank_0_and_names_stay() -> None:
    def body(rank: int) -> Any:
        distgrad.manual_seed(rank)
        module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        names = list(module.state_dict())
        with distgrad.no_grad():
            module[1].running_mean.fill_(float(rank + 5))
        model = DataParallel(module)
        with distgrad.no_grad():
            module[1].running_mean.fill_(float(rank + 50))
        state = model.state_dict()
        assert list(state) == names
        return flat(model), state["1.running_mean"].numpy().copy()

    results = simulate(3)(body)
    for weights, mean in results:
        np.testing.assert_array_equal(weights, results[0][0])
        np.testing.assert_array_equal(mean, 50.0)


def test_differing_models_are_named_on_every_rank() -> None:
    messages: list[str] = []

    def body(rank: int) -> None:
        try:
            DataParallel(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4 + (rank == 1))))
        except CollectiveMismatchError as error:
            messages.append(str(error))
            raise

    with pytest.raises(CollectiveMismatchError):
        simulate(3)(body)
    assert len(messages) == 3
    for text in messages:
        assert "'1.weight' (shape (4, 3)" in text and "'1.weight' (shape (5, 3)" in text and "on rank 1" in text


@pytest.mark.parametrize(("make", "kind", "text"), [
    (lambda: DataParallel(3), TypeError, "nn.Module"),  # type: ignore[arg-type]
    (lambda: DataParallel(nn.Linear(1, 1), transport="tcp"), ValueError, "transport"),
    (lambda: simulate(2)(lambda rank: DataParallel(nn.Linear(1, 1), transport="shared", hook=mean_hook)), ValueError,
     "comm hook"),
    (lambda: DataParallel(nn.Linear(1, 1), buffers="x"), ValueError, "buffers"),
    (lambda: DataParallel(nn.Linear(1, 1), bucket_bytes=0), ValueError, "bucket_bytes"),
    (lambda: DataParallel(nn.Linear(1, 1), comm="world"), TypeError, "ommunicator"),
])
def test_misuse(make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make()


def test_wrapping_twice_and_rebinding_are_refused() -> None:
    module = nn.Linear(2, 2)
    model = DataParallel(module)
    with pytest.raises(RuntimeError, match="wrapped once"):
        DataParallel(module)
    with pytest.raises(RuntimeError, match=r"\.data"):
        model.weight.data = distgrad.ones(2, 2)
    model.close()
    DataParallel(module).close()


def test_create_graph_is_refused_while_syncing() -> None:
    def body(rank: int) -> None:
        model = DataParallel(nn.Linear(2, 2))
        with pytest.raises(RuntimeError, match="no_sync"):
            model(distgrad.ones(1, 2)).sum().backward(create_graph=True)

    with pytest.warns(UserWarning, match="create_graph"):
        simulate(2)(body)


def test_gradients_live_in_flat_memory_and_zero_grad_empties() -> None:
    model = DataParallel(nn.Linear(3, 2))
    assert model.weight.grad is None
    model(distgrad.ones(1, 3)).sum().backward()
    kept = model.weight.grad
    assert kept.array.base is not None and np.shares_memory(kept.array, model.weight.placement.group.flat)
    model.zero_grad()
    assert model.weight.grad is None
    model(distgrad.ones(1, 3) * 4).sum().backward()
    assert model.weight.grad is kept
    np.testing.assert_array_equal(kept, 4.0)
    model.weight.grad = distgrad.zeros(2, 3)
    assert model.weight.grad is kept and not kept.array.any()


def test_evaluation_on_rank_0_alone_needs_nobody() -> None:
    def body(rank: int) -> float:
        model = DataParallel(nn.Linear(2, 1))
        if rank == 0:
            model.eval()
            with distgrad.no_grad():
                model(distgrad.ones(1, 2))
            model(distgrad.ones(1, 2)).detach()
            model.train()
        model(distgrad.ones(1, 2)).sum().backward()
        return model.weight.grad.sum().item()

    assert simulate(2)(body) == [2.0, 2.0]


def test_a_hook_of_ones_own_and_hooks_that_are_wrong() -> None:
    def doubled(bucket: Any, comm: Any) -> Any:
        bucket.send[...] *= 2
        return mean_hook(bucket, comm)

    def body(rank: int) -> float:
        model = DataParallel(nn.Linear(2, 1, bias=False), hook=doubled)
        model(distgrad.ones(1, 2)).sum().backward()
        return model.weight.grad[0, 0].item()

    assert simulate(2)(body) == [2.0, 2.0]

    def wrong(rank: int) -> None:
        model = DataParallel(nn.Linear(2, 1), hook=lambda bucket, comm: None)  # type: ignore[arg-type, return-value]
        model(distgrad.ones(1, 2)).sum().backward()

    with pytest.raises(TypeError, match="returns a Work"):
        simulate(2)(wrong)


def test_frozen_and_thawed_layers() -> None:
    def body(rank: int) -> Any:
        model = DataParallel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))
        model.module[0].requires_grad_(False)
        model(distgrad.ones(1, 2)).sum().backward()
        frozen = model.module[0].weight.grad
        model.zero_grad()
        model.module[0].requires_grad_(True)
        model(distgrad.full((1, 2), float(rank))).sum().backward()
        return frozen, model.module[0].weight.grad.numpy().copy()

    (frozen, a), (_, b) = simulate(2)(body)
    assert frozen is None
    np.testing.assert_array_equal(a, b)


def test_the_batch_helper_covers_the_whole_batch() -> None:
    x, _ = batch("mlp", 0, 1, 0)
    shards = [batch("mlp", rank, 3, 0)[0].numpy() for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(shards), x)


def test_an_anomaly_names_the_rank() -> None:
    from distgrad.autograd import detect_anomaly
    from distgrad.errors import AnomalyError

    def body(rank: int) -> str:
        x = distgrad.tensor([float(rank)], requires_grad=True)
        with detect_anomaly():
            try:
                (1 / x).backward()
            except AnomalyError as error:
                return str(error)
        return ""

    said = simulate(2)(body)
    assert "rank 0: " in said[0] and "(1 / x).backward()" in said[0] and not said[1]
