"""Several devices: work is done on the device of its tensors, whichever is current: over the stand-in, or cuda."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import cuda, nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, world
from distgrad.graph import engine
from distgrad.nn import functional as F
from tests.gpu import emulator

pytestmark = pytest.mark.skipif("config.getoption('--device') == 'standin'", reason="brings its own devices")
PLACES = pytest.mark.parametrize("place", ["cuda:0", "cuda:1"])


@pytest.fixture
def two(request: pytest.FixtureRequest) -> None:
    """Two devices: the stand-in's, or with --device cuda real ones."""
    if request.config.getoption("--device") != "cuda":
        if not emulator.available():
            pytest.skip("needs g++, which compiles the kernels for the processor")
        request.getfixturevalue("cupy").devices = 2
    elif cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")


def at(place: str, *shape: int, seed: int = 0, grad: bool = False) -> Any:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return dg.tensor(values, device=place, requires_grad=grad)


def assigned(a: Any, b: Any) -> Any:
    a[0] = 1.0
    a[[1, 2], 1] = b[0, :2]
    a[b > 1] = 3.0
    return a


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b, "number": lambda a, b: 2 * a - 1, "matmul": lambda a, b: a @ b,
    "exp": lambda a, b: a.exp(), "gelu": lambda a, b: F.gelu(a), "sum": lambda a, b: a.sum(0),
    "mean": lambda a, b: (a * b).mean(), "softmax": lambda a, b: a.softmax(-1), "clone": lambda a, b: a.clone(),
    "norm": lambda a, b: F.layer_norm(a, (4,)), "index": lambda a, b: a[[0, 2]], "flip": lambda a, b: a.flip(0),
    "where": lambda a, b: dg.where(a > 0, a, b), "cat": lambda a, b: dg.cat((a, b)), "var": lambda a, b: a.var(0),
    "stack": lambda a, b: dg.stack([a, b]), "cumsum": lambda a, b: a.cumsum(0), "sort": lambda a, b: a.sort(-1)[0],
    "max": lambda a, b: a.max(1)[0], "view": lambda a, b: a.t()[1:].reshape(-1) * 2,
    "median": lambda a, b: a.median(1)[0],
    "pad": lambda a, b: F.pad(a, (1, 1)), "circular": lambda a, b: F.pad(a[None], (1, 1), mode="circular"),
    "topk": lambda a, b: a.topk(2)[0], "unfold": lambda a, b: a.unfold(1, 2, 1), "diag": lambda a, b: a.diag(1),
    "repeat": lambda a, b: a.repeat_interleave(2, 0),
    "fill": lambda a, b: (a * 1).index_fill(0, (b > 9).nonzero()[:, 0], 2.0),
    "set": lambda a, b: assigned(a * 1, b), "where of": lambda a, b: a[a.argmax(1), b.argmin(1)] + a.count_nonzero(),
    "hot": lambda a, b: F.one_hot((a > 0).long(), 3) * b[..., None], "unique": lambda a, b: a * dg.unique(b)[0],
    "adaptive": lambda a, b: F.adaptive_avg_pool2d(a[None], (3, 3)), "pool": lambda a, b: F.max_pool2d(a[None], 2),
    "masked": lambda a, b: F.scaled_dot_product_attention(a[None], b[None], b[None], (b > -1)[None]),
    "causal": lambda a, b: F.scaled_dot_product_attention(a[None], b[None], b[None], is_causal=True),
    "broadcast": lambda a, b: a[:1] + b, "cast": lambda a, b: a.double() * 2, "clamp": lambda a, b: a.clamp(-1, 1),
    "pow": lambda a, b: (a * a) ** 1.5, "in place": lambda a, b: (a * 1).mul_(b).add_(1),
    "copy": lambda a, b: dg.zeros_like(a).copy_(b) + a, "erfc": lambda a, b: dg.erfc(a),
    "solve": lambda a, b: dg.linalg.solve(a + 5 * dg.eye(4, device=a.device), b),
    "einsum": lambda a, b: dg.einsum("ij,jk->ik", a, b),
    "conv": lambda a, b: F.conv2d(a[None, None], b[None, None, :2, :2]),
    "loss": lambda a, b: F.cross_entropy(a, dg.tensor([0, 1, 2, 3], device=a.device)),
    "attention": lambda a, b: F.scaled_dot_product_attention(a[None], b[None], b[None]),
    "gather": lambda a, b: a.gather(1, dg.zeros(4, 1, dtype=dg.int64, device=a.device)),
}


@PLACES
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_and_their_gradients(two: Any, operation: str, place: str) -> None:
    found = []
    for where in ("cpu", place):
        a, b = at(where, 4, 4, grad=True), at(where, 4, 4, seed=1, grad=True)
        y = OPERATIONS[operation](a, b)
        assert str(y.device) == where
        (y.double() ** 2).sum().backward()
        grads = [x.grad for x in (a, b) if x.grad is not None]
        assert all(str(g.device) == where for g in grads)
        found.append([y.tolist(), *(g.tolist() for g in grads)])
    for mine, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)
    assert cuda.current_device() == 0


@pytest.mark.parametrize("kind", [optim.Adam, optim.SGD, optim.RMSprop, lambda p: optim.SGD(p, 0.1, momentum=0.9)])
def test_training(two: Any, kind: Any) -> None:
    found = []
    for where in ("cpu", "cuda:1"):
        dg.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 2)).to(where)
        optimizer = kind(model.parameters())
        losses = []
        for step in range(3):
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            loss = model(at(where, 6, 4, seed=step)).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            nn.utils.clip_grad_value_(model.parameters(), 0.05)
            optimizer.step()
            losses.append(loss.item())
        assert {str(p.device) for p in model.parameters()} == {where}
        found.append((losses, model[0].weight.tolist()))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-4)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)


def test_a_model_on_two_devices(two: Any) -> None:
    """Activations go from one device to the other, gradients come back; an optimizer updates both parts."""
    first, second = nn.Linear(4, 8).to("cuda:0"), nn.Linear(8, 1).to("cuda:1")
    host = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1)).to("cpu")
    host[0].load_state_dict({name: value.cpu() for name, value in first.state_dict().items()})
    host[1].load_state_dict({name: value.cpu() for name, value in second.state_dict().items()})
    optimizers = [optim.Adam([*first.parameters(), *second.parameters()], 0.1), optim.Adam(host.parameters(), 0.1)]
    for step in range(3):
        for optimizer, place in zip(optimizers, ("cuda:0", "cpu"), strict=True):
            optimizer.zero_grad()
            x = at(place, 5, 4, seed=step)
            if place == "cpu":
                loss = host(x).square().mean()
            else:
                h = first(x)
                there = h.to("cuda:1")
                loss = (second(there) + second(h.to("cuda:1"))).square().mean() / 4  # h is used twice
            loss.backward()
            optimizer.step()
    for mine, theirs in zip([*first.parameters(), *second.parameters()], host.parameters(), strict=True):
        np.testing.assert_allclose(mine.tolist(), theirs.tolist(), rtol=1e-4, atol=1e-5)


def test_anomaly_mode_and_comparisons(two: Any) -> None:
    x = dg.tensor([0.0, 1.0], device="cuda:1", requires_grad=True)
    with dg.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="NaN"):
        (x.sqrt() * 0).sum().backward()
    assert dg.allclose(x, x + 0) and dg.equal(x, x) and not dg.equal(x, x + 1)
    made = nn.Conv1d(2, 2, 3).to("cuda:1")
    nn.init.dirac_(made.weight)
    nn.init.eye_(linear := nn.Linear(2, 2).to("cuda:1").weight)
    nn.init.sparse_(nn.Linear(4, 4).to("cuda:1").weight, 0.5)
    assert made.weight.tolist()[0] == [[0, 1, 0], [0, 0, 0]] and linear.tolist() == [[1, 0], [0, 1]]


def test_what_is_read_and_made(two: Any) -> None:
    x = at("cuda:1", 3, 3)
    assert x[0, 0].item() == x.tolist()[0][0] and bool(x[0, 0] == x[0, 0]) and "device='cuda:1'" in repr(x)
    for made in (dg.zeros_like(x), dg.randn_like(x), x.new_zeros(2), x.new_tensor([1.0]), dg.full_like(x, 2.0), +x, x.T,
                 x.detach().clone(), x.to("cuda:1", copy=True), x.normal_(), dg.dropout(x, 0.5, True)
                 if hasattr(dg, "dropout") else F.dropout(x, 0.5)):
        assert str(made.device) == "cuda:1"
    assert x.cuda().device.index == 0 and x.to("cuda:0").tolist() == x.cpu().tolist() == x.tolist()
    assert x.T.to("cuda:0").tolist() == x.T.tolist() and x[:, ::2].to("cuda:0").tolist() == x[:, ::2].tolist()
    with dg.no_grad(), dg.inference_mode():
        assert str((x * 2 + x).device) == "cuda:1"


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name in (
    "add", "matmul", "where", "cat", "stack", "broadcast", "solve", "in place", "attention", "einsum")])
def test_operands_on_two_devices(two: Any, operation: str) -> None:
    a, b = at("cuda:0", 4, 4, grad=True), at("cuda:1", 4, 4, grad=True)
    for x, y in ((a, b), (b, a), (a.detach(), b.detach())):
        with pytest.raises(RuntimeError, match=r"(?s)cuda:[01].*cuda:[01].*\.to\("):
            OPERATIONS[operation](x, y)
    with pytest.raises(RuntimeError, match=r"gradient is on cuda:0, its tensor on cuda:1"):
        (b * 2).backward(dg.ones(4, 4, device="cuda:0"))
    (a * 2).sum().backward()
    assert a.grad.tolist() == [[2.0] * 4] * 4, "and work goes on"


def test_higher_derivatives_and_forward_mode(two: Any) -> None:
    x = at("cuda:1", 3, grad=True)
    (g,) = dg.autograd.grad(x.tanh().sum(), x, create_graph=True)
    (h,) = dg.autograd.grad(g.sum(), x)
    assert str(h.device) == "cuda:1"
    y = at("cpu", 3, grad=True)
    (g,) = dg.autograd.grad(y.tanh().sum(), y, create_graph=True)
    np.testing.assert_allclose(h.tolist(), dg.autograd.grad(g.sum(), y)[0].tolist(), rtol=1e-5)
    with dg.autograd.forward_ad.dual_level():
        dual = dg.autograd.forward_ad.make_dual(x.detach(), dg.ones(3, device="cuda:1"))
        assert str(dg.autograd.forward_ad.unpack_dual(dual.exp() * 2).tangent.device) == "cuda:1"


@pytest.mark.skipif("config.getoption('--device') == 'cuda'", reason="there may be several")
def test_one_device_has_none_of_it(cupy: Any) -> None:
    assert str(dg.ones(2, device="cuda").device) == "cuda:0"
    assert engine._visit is engine._visit_all
    assert dg.backend.get("cuda").xp.bitwise_or is sys.modules["cupy"].bitwise_or


@pytest.mark.parametrize("shard", [False, True])
def test_data_parallel_on_another_device(two: Any, shard: bool) -> None:
    """Ranks whose model lies on a device that is not their current one."""
    def trained(where: str) -> list[Any]:
        dg.manual_seed(0)
        model = DataParallel(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(where))
        optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.1) if shard else \
            optim.Adam(model.parameters(), 0.1)
        for step in range(3):
            optimizer.zero_grad()
            model(at(where, 6, 4, seed=10 * step + world().rank)).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
        return [p.tolist() for p in model.parameters()]

    expected = dg.simulate(2)(lambda rank: trained("cpu"))
    for place in ("cuda:1", "cuda:0"):
        for found, host in zip(dg.simulate(2)(lambda rank, place=place: trained(place)), expected, strict=True):
            for mine, theirs in zip(found, host, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_sharding_happens_where_the_model_is(two: Any) -> None:
    def sharded(rank: int) -> tuple[str, int]:
        cuda.set_device(0)
        model = DataParallel(nn.Linear(4, 2).to("cuda:1"))
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.1)
        before = model.module.weight.tolist()
        model(dg.ones(3, 4, device="cuda:1")).sum().backward()
        optimizer.step()
        assert model.module.weight.tolist() != before
        return str(model.module.weight.device), cuda.current_device()

    assert dg.simulate(2)(sharded) == [("cuda:1", 0)] * 2
