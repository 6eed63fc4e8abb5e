"""The strict device: closed to numpy, scipy and compiled kernels, open through its own doors, and right."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.special

import distgrad as dg
from distgrad import backend, nn, optim
from distgrad.backend.strict import transfers
from distgrad.nn import functional as F

STRICT = backend.get("strict")


@pytest.fixture(autouse=True)
def counted_from_zero() -> Iterator[None]:
    transfers.reset()
    yield


def strict(values: Any) -> Any:
    return STRICT.from_host(np.asarray(values))


def closed(code: str, **names: Any) -> Any:
    """Run a line as if it stood in the package: under --device strict, a test's own lines may look inside."""
    return eval(compile(code, backend.__file__, "eval"), {"np": np, "special": scipy.special, **names})


WAYS = {
    "asarray": "np.asarray(a)", "array": "np.array(a)", "exp": "np.exp(a)", "sum": "np.sum(a)",
    "concatenate": "np.concatenate([a, a])", "matmul": "np.matmul(a, a)", "where": "np.where(a > 0, a, a)",
    "special": "special.erf(a)", "left": "np.ones(3) + a", "right": "a + np.ones(3)", "compared": "a == np.ones(3)",
    "in place": "a.__iadd__(np.ones(3))", "indexed": "a[np.array([0, 1])]", "stored": "a.__setitem__(0, np.ones(()))",
    "buffer": "memoryview(a)", "frombuffer": "np.frombuffer(a)", "float": "float(a[0])", "int": "int(a[0])",
    "index": "[1, 2, 3][a[0]]", "out": "np.add(np.ones(3), 1, out=a)", "copyto": "np.copyto(np.ones(3), a)",
    "into an array": "np.ones(3).__setitem__(slice(3), a)", "list": "a.__setitem__(0, [1.0])",
    "xp with numpy's": "xp.add(a, np.ones(3))", "xp.asarray": "xp.asarray(np.ones(3))",
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_the_host_takes_it(way: str) -> None:
    a = strict([0.5, 1.0, 2.0])
    with pytest.raises((TypeError, ValueError)):
        closed(WAYS[way], a=a, xp=STRICT.xp)
    assert a.tolist() == [0.5, 1.0, 2.0]


def test_dlpack_and_pickle_are_refused() -> None:
    a = strict([1.0])
    with pytest.raises(BufferError, match="not given away"):
        np.from_dlpack(a)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(a)
    with pytest.raises(BufferError):
        dg.tensor([1.0], device="strict").__dlpack__()


def test_names_that_cupy_has_not_are_refused() -> None:
    with pytest.raises(AttributeError, match="numpy and cupy both have"):
        STRICT.xp.ndenumerate
    with pytest.raises(NotImplementedError, match=r"no logaddexp\.accumulate"):
        STRICT.xp.logaddexp.accumulate(strict([1.0]))


def test_what_cupy_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="not broadcast"):
        STRICT.xp.linalg.solve(strict(np.ones((2, 3, 3))), strict(np.ones((3, 2))))
    with pytest.raises(TypeError, match=r"no add\.at in complex64"):
        STRICT.xp.add.at(strict(np.ones(3, "complex64")), strict([0, 0]), strict(np.ones(2, "complex64")))
    rows, columns = strict([0, 1]), strict([0, 1, 0])
    with pytest.raises(ValueError, match="broadcast"):
        strict(np.ones((3, 4)))[rows, columns]
    with pytest.raises(ValueError, match="broadcast"):
        strict(np.ones((3, 4)))[rows, columns] = 1.0
    with pytest.raises(IndexError):
        strict(np.ones((3, 4)))[7]


def test_what_crosses_is_counted() -> None:
    a = strict(np.ones((2, 3), np.float32))
    assert (transfers.from_host, transfers.bytes_from_host) == (1, 24)
    STRICT.to_host(a)
    assert (transfers.to_host, transfers.bytes_to_host) == (1, 24)
    assert bool(a.all()) and a[0, 0].item() == 1.0
    assert transfers.scalars == 2
    STRICT.fill_from_host(a, np.zeros((2, 3), np.float32))
    assert transfers.from_host == 2 and not a.any()


def test_arrays_behave_as_other_devices_do() -> None:
    a = strict(np.arange(6.0).reshape(2, 3))
    assert type(a.sum()) is type(a[0, 0]) is type(a) and a.sum().shape == ()
    row = a[1]
    row[0] = 7.0
    assert a[1, 0].item() == 7.0 and row.base is a and a.base is None and a.T.base is a
    one = a[0, 1]
    one += 4
    assert a[0, 1].item() == 5.0
    assert a.reshape(6).base is a and a.copy().base is None and a.flags.c_contiguous and not a.T.flags.c_contiguous
    assert a.astype(a.dtype, copy=False) is a and STRICT.xp.asarray(a) is a
    assert copy.deepcopy(a).tolist() == a.tolist() and len(list(a)) == 2
    assert "shape (2, 3)" in repr(a) and "7." not in repr(a)
    q, r = STRICT.xp.linalg.qr(a)
    assert type(q) is type(r) is type(a)
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)


def test_moving_and_making_tensors() -> None:
    x = dg.tensor([[1.0, 2.0]], device="cpu", requires_grad=True)
    y = x.to("strict")
    assert y.device == dg.device("strict") and str(y.device) == "strict" and x.to("cpu") is x
    (y * y).sum().backward()
    assert x.grad.device.type == "cpu" and x.grad.tolist() == [[2.0, 4.0]]
    assert y.detach().cpu().numpy().tolist() == [[1.0, 2.0]] and y.to("strict") is y
    assert repr(y.detach()) == "tensor([[1., 2.]], device='strict')"
    with pytest.raises(TypeError, match="use cpu"):
        closed("y.numpy()", y=y.detach())
    for made in (dg.zeros(2, device="strict"), dg.ones(2, device="strict"), dg.full((2,), 3.0, device="strict"),
                 dg.empty(2, device="strict"), dg.eye(2, device="strict"), dg.arange(3, device="strict"),
                 dg.linspace(0, 1, 3, device="strict"), dg.rand(2, device="strict"), dg.randn(2, device="strict"),
                 dg.randint(5, (2,), device="strict"), dg.randperm(3, device="strict"), dg.tensor(1, device="strict"),
                 dg.as_tensor(np.ones(2), device="strict"), dg.zeros_like(y), dg.randn_like(y), y.new_zeros(3),
                 y.new_tensor([1.0]), dg.normal(y.detach(), 1.0), dg.bernoulli(y.detach() / 2),
                 dg.multinomial(y.detach(), 1)):
        assert made.device.type == "strict", made
    assert dg.tensor(y).device.type == "strict" and dg.tensor(y, device="cpu").device.type == "cpu"


def test_numbers_may_be_tensors_of_any_device() -> None:
    for device in ("cpu", "strict"):
        three, half = dg.tensor(3, device=device), dg.tensor(0.5, device=device)
        assert dg.arange(three).tolist() == dg.arange(0, three, dg.tensor(1, device=device)).tolist() == [0, 1, 2]
        assert dg.arange(three).dtype == dg.int64 and dg.arange(half, three).tolist() == [0.5, 1.5, 2.5]
        assert dg.linspace(half, three, 2).tolist() == [0.5, 3]
        assert dg.logspace(dg.tensor(0.0), three, 2).tolist() == [1, 1000]
        assert dg.full((2,), three).tolist() == [3, 3] and dg.full((2,), three).dtype == dg.int64
        assert dg.full((1,), half, device=device).dtype == dg.float32


def test_the_default_device() -> None:
    before = dg.get_default_device()
    try:
        dg.set_default_device("strict")
        assert dg.get_default_device() == dg.device("strict")
        assert dg.zeros(2).device.type == dg.tensor([1]).device.type == nn.Linear(2, 2).weight.device.type == "strict"
        assert dg.zeros(2, device="cpu").device.type == "cpu"
        assert dg.zeros_like(dg.zeros(2, device="cpu")).device.type == "cpu"
        dg.set_default_device(None)
        assert dg.zeros(2).device.type == "cpu" and dg.get_default_device() == dg.device("cpu")
        with pytest.raises(RuntimeError, match="unknown device"):
            dg.set_default_device("abacus")
    finally:
        dg.set_default_device(before)


MIXED = {
    "add": lambda h, d: h + d, "right": lambda h, d: d * h, "compare": lambda h, d: h < d,
    "matmul": lambda h, d: h @ d, "linear": lambda h, d: F.linear(h, d), "cat": lambda h, d: dg.cat((h, d)),
    "where": lambda h, d: dg.where(h > 0, d, d), "raw array": lambda h, d: d + h.array,
    "inference": lambda h, d: dg.inference_mode()(lambda: h + d)(),
    "embedding": lambda h, d: F.embedding(dg.zeros(2, 2, dtype=dg.int64, device="cpu"), d),
}


@pytest.mark.parametrize("operation", MIXED)
def test_mixing_devices_names_both(operation: str) -> None:
    host, device = dg.ones(2, 2, device="cpu"), dg.ones(2, 2, device="strict")
    for requires_grad in (False, True):
        device.requires_grad = requires_grad
        with pytest.raises(RuntimeError, match=r"(?s)(cpu.*strict|strict.*cpu).*\.to\("):
            MIXED[operation](host, device)


def test_gradients_must_lie_where_their_tensors_do() -> None:
    x = dg.ones(2, device="strict", requires_grad=True)
    with pytest.raises(RuntimeError, match="gradient is on cpu, its tensor on strict"):
        (x * 2).backward(dg.ones(2, device="cpu"))
    with pytest.raises(RuntimeError, match=r"must match its tensor .*strict.*cpu"):
        x.grad = dg.ones(2, device="cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv = nn.Conv2d(1, 2, 3)
        self.batch_norm = nn.BatchNorm2d(2)
        self.head = nn.Sequential(nn.Linear(2 * 3 * 6, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 5))

    def forward(self, x: Any) -> Any:
        y, _ = self.lstm(self.embedding(x))
        y = self.norm(y)
        y = (y + self.attention(y, y, y)[0])[:, None]
        return self.head(self.batch_norm(self.conv(y)).relu().flatten(1))


def _trained(device: str, make: Callable[..., Any]) -> tuple[list[float], dict[str, np.ndarray], list[int]]:
    dg.manual_seed(0)
    model = Net().to("cpu").double().to(device)
    optimizer = make(model.parameters())
    losses, reads = [], []
    stream = np.random.default_rng(0)
    for _ in range(4):
        x = dg.tensor(stream.integers(0, 11, (4, 5)), device=device)
        t = dg.tensor(stream.integers(0, 5, 4), device=device)
        transfers.reset()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        reads.append(transfers.to_host)
        losses.append(loss.item())
    return losses, {name: value.cpu().numpy() for name, value in model.state_dict().items()}, reads


@pytest.mark.parametrize("make", [lambda p: optim.Adam(p, 1e-2), lambda p: optim.SGD(p, 0.1, momentum=0.9),
                                  lambda p: optim.RMSprop(p, 1e-2)], ids=["adam", "sgd", "rmsprop"])
def test_training_equals_that_on_the_host_and_reads_nothing_back(make: Callable[..., Any]) -> None:
    host, device = _trained("cpu", make), _trained("strict", make)
    np.testing.assert_allclose(device[0], host[0], rtol=1e-9)
    for name, value in host[1].items():
        np.testing.assert_allclose(device[1][name], value, rtol=1e-8, atol=1e-10, err_msg=name)
    assert device[2] == [0, 0, 0, 0], "no array goes to the host in a step"


def test_modules_move_in_place_and_load_from_the_host() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to("cpu")
    parameter = net[0].weight
    net(dg.ones(4, 2, device="cpu")).sum().backward()
    assert net.to("strict") is net and net[0].weight is parameter
    assert {t.device.type for t in (*net.parameters(), *net.buffers(), parameter.grad)} == {"strict"}
    saved = {name: value.cpu() for name, value in net.state_dict().items()}
    saved["0.bias"] = dg.full((3,), 2.0, device="cpu")
    net.load_state_dict(saved)
    assert net[0].bias.device.type == "strict" and net[0].bias.tolist() == [2.0] * 3
    assert net.cpu()[0].weight.device.type == "cpu" and parameter.grad.device.type == "cpu"


def test_an_optimizer_of_parameters_on_two_devices() -> None:
    a, b = nn.Parameter(dg.ones(2, device="cpu")), nn.Parameter(dg.ones(2, device="strict"))
    optimizer = optim.Adam([a, b], 0.1)
    (a.sum() + (b * 1).sum().cpu()).backward()
    optimizer.step()
    assert a.tolist() == b.tolist() != [1.0, 1.0]
    fresh = optim.Adam([a, b], 0.1)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.state[b]["exp_avg"].device.type == "strict" and fresh.state[b]["step"].device.type == "cpu"
