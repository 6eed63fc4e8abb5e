"""Ranks on devices of their own exchange by NCCL, here by one that stands in: `pytest --device standin tests/gpu`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import backend, cuda, nn, optim
from distgrad.comm import devices
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, world
from distgrad.errors import CommError, RankFailedError
from tests.gpu import standin_nccl
from tests.gpu.counting import counted
from tests.steady import Step

pytestmark = pytest.mark.skipif("config.getoption('--device') != 'standin'", reason="of the stand-in: --device standin")

WIDTH, ROWS, STEPS = 70, 3, 2
SMALL = 1 << 14  # bytes: several buckets


@pytest.fixture
def nccl() -> Iterator[standin_nccl.Library]:
    """Four devices, none of which is the default: each rank takes its own."""
    default = dg.get_default_device()
    dg.set_default_device(None)
    with standin_nccl.installed(4) as library:
        yield library
    dg.set_default_device(default)


class Net(nn.Module):
    """Layers, of which forward takes some."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.spare = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, x: Any, spare: bool = False) -> Any:
        y = self.second(self.first(x).tanh()).tanh()
        return self.last(self.spare(y) if spare else y)


def net(kind: str) -> Net:
    dg.manual_seed(0)
    return Net().to(dtype=getattr(dg, kind)).to("cuda")


def rows(step: int, rank: int, kind: str) -> Any:
    values = np.random.default_rng((step, rank)).standard_normal((ROWS, WIDTH))
    return dg.tensor(values.astype(kind), device="cuda")


def on_own_devices(ranks: int, body: Callable[[int], Any], nodes: Any = None) -> list[Any]:
    def placed(rank: int) -> Any:
        with cuda.device(rank):
            return body(rank)

    return dg.simulate(ranks, nodes)(placed)


def values(module: Any) -> list[np.ndarray]:
    return [p.detach().cpu().numpy() for p in module.parameters()]


def plain(model: Any, step: int, rank: int, kind: str) -> None:
    model(rows(step, rank, kind)).square().mean().backward()


def unused(model: Any, step: int, rank: int, kind: str) -> None:
    model(rows(step, rank, kind), spare=step == 1 and rank == 0).square().mean().backward()


def accumulated(model: Any, step: int, rank: int, kind: str) -> None:
    with model.no_sync():
        model(rows(step, rank, kind)).square().mean().backward()
    model(rows(step + 50, rank, kind)).square().mean().backward()
    model(rows(step + 90, rank, kind)).square().mean().backward()  # joins what was reduced


def weighted(model: Any, step: int, rank: int, kind: str) -> None:
    if rank == step % 2:
        model.backward(None, weight=0)
    else:
        model.backward(model(rows(step, rank, kind)).square().mean(), weight=rank + 2)
    model.backward(model(rows(step + 50, rank, kind)).square().mean(), weight=rank + 1)


WAYS = [plain, unused, accumulated, weighted]


def trained(way: Callable[..., None], transport: str, kind: str, shard: bool = False) -> Callable[[int], Any]:
    def body(rank: int) -> Any:
        model = DataParallel(net(kind), transport=transport, bucket_bytes=SMALL)
        rule: Any = partial(optim.SGD, momentum=0.9) if kind == "float16" else optim.Adam  # whose eps is 0 there
        optimizer = rule(model.parameters(), lr=1e-2)
        if shard:
            optimizer = ZeroRedundancyOptimizer(model.parameters(), type(optimizer), **optimizer.defaults)
        norms = []
        for step in range(STEPS):
            optimizer.zero_grad()
            way(model, step, rank, kind)
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.05).item()))
            optimizer.step()
        state = optimizer.state_dict()["state"] if shard else {}
        moments = [entry[name].cpu().numpy() for _, entry in sorted(state.items()) for name in sorted(entry)]
        found = values(model), norms, moments, model.transport
        model.close()
        return found

    return body


def same(found: Any, expected: Any, kind: str) -> None:
    rtol, atol = {"float64": (1e-9, 1e-11), "float32": (2e-3, 2e-5), "float16": (5e-2, 5e-3)}[kind]
    for part in range(3):
        for mine, theirs in zip(found[part], expected[part], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("way", "ranks", "kind", "shard"), [
    *((way, 2, "float64", shard) for way, shard in zip(WAYS, (False, True, False, True), strict=True)),
    *((way, 3, "float16", True) for way in WAYS), (weighted, 4, "float32", True), (plain, 4, "float32", False)])
def test_training_is_that_of_gradients_which_pass_through_the_host(nccl: Any, way: Any, ranks: int, kind: str,
                                                                   shard: bool) -> None:
    found = on_own_devices(ranks, trained(way, "auto", kind, shard))
    expected = on_own_devices(ranks, trained(way, "shared", kind, shard))
    assert [each[3] for each in found] == ["nccl"] * ranks and expected[0][3] == "shared"
    for each in found:
        same(each, expected[0], kind)
        assert [a.tobytes() for a in each[0]] == [b.tobytes() for b in found[0][0]] and each[1] == found[0][1]
    assert nccl.live == 0


def test_training_is_that_of_one_process(nccl: Any) -> None:
    expected = net("float64")
    optimizer = optim.SGD(expected.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        x = dg.cat([rows(step, rank, "float64") for rank in range(4)])
        expected(x).square().mean().backward()
        optimizer.step()

    def body(rank: int) -> list[np.ndarray]:
        model = DataParallel(net("float64"))
        sgd = optim.SGD(model.parameters(), lr=0.1)
        for step in range(STEPS):
            sgd.zero_grad()
            plain(model, step, rank, "float64")
            sgd.step()
        return values(model)

    for found in on_own_devices(4, body):
        for mine, theirs in zip(found, values(expected), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


def test_nodes_do_not_matter(nccl: Any) -> None:
    found = on_own_devices(4, trained(plain, "nccl", "float64"), nodes=[3, 1])
    same(found[0], on_own_devices(4, trained(plain, "nccl", "float64"))[0], "float64")


@pytest.mark.parametrize("shard", [False, True])
def test_a_steady_step_moves_its_batches_and_waits_for_nothing(nccl: Any, shard: bool) -> None:
    def body(rank: int) -> dict[str, int]:
        step = Step("wide", lambda ps: ZeroRedundancyOptimizer(ps, optim.Adam, lr=1e-2) if shard else
                    optim.Adam(ps, lr=1e-2), partial(DataParallel, bucket_bytes=SMALL), device="cuda", seed=rank)
        step()
        assert step.model.transport == "nccl"
        world().barrier()
        with counted() if rank == 0 else nullcontext({}) as found:  # of both ranks
            world().barrier()
            step()
            world().barrier()
        world().barrier()
        return dict(found)

    assert on_own_devices(2, body) == [{"to device": 4}, {}]


def test_buckets_leave_while_backward_goes_on(nccl: Any) -> None:
    """A bucket's sum is queued before the gradients of layers nearer to the input are there."""
    early: list[int] = []

    def body(rank: int) -> None:
        model = DataParallel(net("float32"), bucket_bytes=SMALL)
        calls = nccl.log[rank]
        before = len(calls)
        model.module.first.weight.register_hook(lambda g: early.append(len(calls) - before))
        plain(model, 0, rank, "float32")
        kinds = {call[0] for call in calls[before:]}
        assert kinds == {"allReduce"} and len(calls) - before == len(model._reducer.buckets)

    on_own_devices(2, body)
    assert len(early) == 2 and min(early) > 0


def test_equal_parts_are_gathered_in_one_call_and_others_in_a_group(nccl: Any) -> None:
    def body(rank: int) -> list[str]:
        model = DataParallel(nn.Linear(4096 // 4, 8 if rank >= 0 else 0, bias=False).to("cuda"))  # two grid blocks
        odd = DataParallel(nn.Linear(4096 // 4, 12, bias=False).to("cuda"))                        # three
        names = []
        for each in (model, odd):
            optimizer = ZeroRedundancyOptimizer(each.parameters(), optim.SGD, lr=0.1)
            each(dg.ones(1, 1024, device="cuda")).sum().backward()
            begin = len(nccl.log[rank])
            optimizer.step()
            names += [call[0] for call in nccl.log[rank][begin:]]
            assert len(np.unique(values(each)[0])) > 1
        return names

    assert on_own_devices(2, body) == [["allGather", "broadcast", "broadcast"]] * 2


def test_parameters_on_the_host_go_their_own_way(nccl: Any) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.there, self.here = nn.Linear(WIDTH, 8).to("cuda"), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            return self.here(self.there(x).tanh().cpu())

    def body(transport: str, rank: int) -> Any:
        dg.manual_seed(0)
        model = DataParallel(Mixed(), transport=transport)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=1e-2)
        for step in range(STEPS):
            optimizer.zero_grad()
            if step == 1:
                model.backward(model(rows(step, rank, "float32")).square().mean(), weight=rank + 1)
            else:
                model(rows(step, rank, "float32")).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
        return values(model), [], [], model.transport

    found = on_own_devices(2, lambda rank: body("auto", rank))
    assert found[0][3] == "nccl"
    same(found[1], on_own_devices(2, lambda rank: body("shared", rank))[0], "float32")


def test_models_share_what_joins_the_devices_until_the_last_is_closed(nccl: Any) -> None:
    def body(rank: int) -> list[int]:
        models = [DataParallel(nn.Linear(3, 2).to("cuda")) for _ in range(2)]
        optimizer = ZeroRedundancyOptimizer(models[1].parameters(), optim.Adam, lr=0.1)
        (models[0](dg.ones(1, 3, device="cuda")).sum() + models[1](dg.ones(1, 3, device="cuda")).sum()).backward()
        optimizer.step()
        live = []
        for model in models:
            world().barrier()
            live.append(nccl.live)
            world().barrier()
            model.close()
        world().barrier()
        assert optimizer.state_dict()["state"][0]["exp_avg"].shape == (2, 3)  # by way of the host
        again = DataParallel(nn.Linear(3, 2).to("cuda"))
        world().barrier()
        live.append(nccl.live)
        world().barrier()
        assert again.transport == "nccl"
        return live

    assert on_own_devices(2, body) == [[2, 2, 2]] * 2
    assert nccl.live == 0 and len(nccl.worlds) == 2


def test_a_rank_that_raises_in_backward_leaves_nobody_behind(nccl: Any) -> None:
    def body(rank: int) -> list[np.ndarray]:
        model = DataParallel(net("float64"), bucket_bytes=SMALL)
        loss = model(rows(0, rank, "float64")).square().mean()
        if rank == 1:
            model.module.first.weight.register_hook(lambda g: 1 / 0)
        with pytest.raises(ZeroDivisionError if rank == 1 else RankFailedError, match="division"):
            loss.backward()
        model.zero_grad()
        other = DataParallel(net("float64"), bucket_bytes=SMALL)
        plain(other, 1, rank, "float64")
        return [p.grad.cpu().numpy() for p in other.parameters() if p.grad is not None]

    first, second = on_own_devices(2, body)
    for mine, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("when", ["refuses", "broken"])
def test_an_error_of_nccl_is_raised_on_every_rank_and_ends_what_devices_wait_for(nccl: Any, when: str) -> None:
    def body(rank: int) -> str:
        model = DataParallel(net("float32"), bucket_bytes=SMALL)
        plain(model, 0, rank, "float32")
        kept = model.module.last.weight.grad.cpu().numpy()
        hook = model.module.first.weight.register_hook(
            lambda g: getattr(nccl, when).update({1: "an illegal memory access"}))
        mine = r"NCCL failed on rank 1, on cuda:1: .*an illegal memory access.*NCCL_DEBUG=INFO"
        theirs = "backward raised on rank 1: CommError: NCCL failed on rank 1|on cuda:0: .*remote process exited"
        with pytest.raises(CommError, match=mine if rank == 1 else theirs):
            plain(model, 1, rank, "float32")
        np.testing.assert_array_equal(model.module.last.weight.grad.cpu().numpy(), kept)
        with pytest.raises(CommError, match=rf"NCCL's communicator of rank {rank} was given up"):
            plain(model, 1, rank, "float32")
        hook.remove()
        world().barrier()
        getattr(nccl, when).clear()
        model.close()
        again = DataParallel(net("float32"), bucket_bytes=SMALL)
        plain(again, 1, rank, "float32")
        return again.transport

    assert on_own_devices(2, body) == ["nccl"] * 2


@pytest.mark.parametrize("shared", [[0, 0], [0, 1, 0]])
def test_ranks_that_share_a_device(nccl: Any, shared: list[int], capfd: pytest.CaptureFixture[str]) -> None:
    def body(rank: int) -> str:
        with cuda.device(shared[rank]):
            model = DataParallel(nn.Linear(3, 2).to("cuda"))
            model(dg.ones(1, 3, device="cuda")).sum().backward()
            with pytest.raises(RuntimeError, match=r"'nccl' is not possible here: ranks 0 and . share cuda:0"):
                DataParallel(nn.Linear(3, 2).to("cuda"), transport="nccl")
            return model.transport

    assert dg.simulate(len(shared))(body) == ["shared"] * len(shared)
    said = [line for line in capfd.readouterr().err.splitlines() if "NCCL" in line]
    assert len(said) == 1 and f"ranks 0 and {len(shared) - 1} share cuda:0 of host" in said[0]
    assert not nccl.worlds


def fallen_back(ranks: int, match: str, body: Callable[[int], str] | None = None) -> None:
    """Every rank takes another way, and whoever insists is told the reason."""
    def wrap(rank: int) -> str:
        with pytest.raises(RuntimeError, match=match):
            DataParallel(nn.Linear(3, 2).to("cuda"), transport="nccl")
        model = DataParallel(nn.Linear(3, 2).to("cuda"))
        model(dg.ones(1, 3, device="cuda")).sum().backward()
        return model.transport

    assert on_own_devices(ranks, body or wrap) == ["shared"] * ranks


def test_one_rank_without_nccl(nccl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = type(backend.get("cuda"))
    found = gpu.why_no_collectives
    monkeypatch.setattr(gpu, "why_no_collectives", lambda self: "cupy finds none" if self.current() == 2 else "")
    fallen_back(3, "rank 2 has no NCCL: cupy finds none")
    monkeypatch.setattr(gpu, "why_no_collectives", found)
    monkeypatch.setattr(gpu, "collectives_version", lambda self: 23203 - self.current())
    fallen_back(2, r"rank 1 has another NCCL \(23202\) than rank 0 \(23203\)")


def test_no_nccl_and_an_old_one(nccl: Any) -> None:
    nccl.number = 2804
    fallen_back(2, r"rank 0 has no NCCL: its NCCL is too old \(2.8\): 2.10 or newer")
    nccl.available = False
    fallen_back(2, "rank 0 has no NCCL: cupy finds no NCCL: pip install nvidia-nccl-cu12")


def test_a_rank_that_cannot_join(nccl: Any) -> None:
    nccl.fails[1] = "unhandled system error"
    fallen_back(3, r"NCCL failed on rank 1: NcclError: .*unhandled system error.*NCCL_DEBUG=INFO.*NCCL_SOCKET_IFNAME")
    nccl.fails.clear()
    assert on_own_devices(3, trained(plain, "auto", "float32"))[0][3] == "nccl"


def test_a_rank_that_never_joins(nccl: Any, monkeypatch: pytest.MonkeyPatch,
                                 capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(devices, "Deadline", standin_nccl.Soon)
    nccl.stuck = {1}

    def body(rank: int) -> str:
        DataParallel(nn.Linear(3, 2).to("cuda"))
        return DataParallel(nn.Linear(3, 2).to("cuda")).transport

    fallen_back(2, "", body)
    assert len(nccl.worlds) == 1, "what took so long is not tried again"
    said = capfd.readouterr().err
    assert "has waited 0.2 s for NCCL to join the devices; not there: rank(s) 0, 1" in said
    assert "by way of the host, not by NCCL: NCCL has not joined the devices; not there: rank(s) 0, 1. NCCL_D" in said


def test_devices_that_do_not_reach_each_other(nccl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They join, and then a sum comes out wrong: gradients take another way."""
    monkeypatch.setattr(standin_nccl, "_SUM", 77)  # no scale is 1 any more: every sum is taken as a mean
    monkeypatch.setattr(nccl, "NCCL_SUM", 4, raising=False)
    fallen_back(2, "NCCL failed on rank 0: RuntimeError: a sum of ones over 2 devices came to 1.0 up to 1.0")


def test_what_does_not_go_together(nccl: Any) -> None:
    def body(rank: int) -> None:
        with pytest.raises(ValueError, match="a comm hook works on gradients in memory of the host"):
            DataParallel(nn.Linear(3, 2).to("cuda"), transport="nccl", hook=lambda bucket, comm: None)
        with pytest.raises(RuntimeError, match="the parameters of no rank lie on a CUDA device"):
            DataParallel(nn.Linear(3, 2).to("cpu"), transport="nccl")
        with pytest.raises(RuntimeError, match="rank 1 has its parameters in memory of the host"):
            DataParallel(nn.Linear(3, 2).to("cpu" if rank else "cuda"), transport="nccl")
        with pytest.raises(RuntimeError, match="rank 0's parameters lie on cuda:0 and cuda:3"):
            DataParallel(nn.Sequential(nn.Linear(3, 3).to("cuda"), nn.Linear(3, 2).to("cuda:3")), transport="nccl")
        swapped = ["cpu", "cuda"] if rank else ["cuda", "cpu"]
        with pytest.raises(RuntimeError, match="other parameters lie on the device of rank 1 than on that of rank 0"):
            DataParallel(nn.Sequential(*[nn.Linear(3, 3).to(there) for there in swapped]), transport="nccl")

    on_own_devices(2, body)


def test_one_rank_needs_nobody(nccl: Any) -> None:
    model = DataParallel(nn.Linear(3, 2).to("cuda"), transport="nccl")
    model.backward(model(dg.ones(1, 3, device="cuda")).sum(), weight=2)
    assert model.transport == "mpi" and not nccl.worlds
