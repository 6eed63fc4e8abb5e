"""What only a device can show: copies that run beside the host, streams, events: `pytest --device cuda tests/gpu`."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import distgrad as dg
from distgrad import cuda, nn, optim
from distgrad.data import DataLoader, TensorDataset
from distgrad.nn import functional as F

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cuda', 'standin')",
                                reason="needs a CUDA device: --device cuda")
on_cuda = pytest.mark.skipif("config.getoption('--device') != 'cuda'", reason="needs a CUDA device: --device cuda")


@on_cuda
def test_a_copy_from_pinned_memory_returns_at_once() -> None:
    pinned = dg.ones(1 << 26, device="cpu").pin_memory()  # 256 MiB
    target = pinned.to("cuda", non_blocking=True)
    cuda.synchronize()
    done = cuda.Event()
    target = pinned.to("cuda", non_blocking=True)
    done.record()
    assert not done.query(), "it takes milliseconds, to queue it does not"
    done.synchronize()
    assert target.sum().item() == 1 << 26


@on_cuda
def test_a_copy_to_the_host_returns_at_once() -> None:
    x = dg.ones(1 << 26, device="cuda") * 3
    y = x.to("cpu", non_blocking=True)
    cuda.synchronize()
    done = cuda.Event()
    y = (x + 1).to("cpu", non_blocking=True)
    done.record()
    assert y.is_pinned() and not done.query()
    del x
    dg.zeros(1 << 26, device="cuda")
    cuda.synchronize()
    assert y.array.min() == y.array.max() == 4


@pytest.mark.parametrize("size", [7, 1 << 10, 1 << 18])
def test_many_copies_whose_memory_is_dropped(size: int) -> None:
    """Blocks of the pinned pool go round: none is given away while a copy uses it."""
    sums = []
    for i in range(50):
        pinned = dg.full((size,), float(i), device="cpu").pin_memory()
        x = pinned.to("cuda", non_blocking=True)
        del pinned
        back = (x + 1).to("cpu", non_blocking=True)
        sums.append((x.sum(), back))
    gc.collect()
    cuda.synchronize()
    for i, (total, back) in enumerate(sums):
        assert total.item() == i * size and (back.array == i + 1).all()


def test_layouts_cross_and_come_back() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    for host in (x, x.T, x[:, ::2], x[::-1], x[:1, :1].reshape(()), x[:0]):
        t = dg.from_numpy(host).cpu() if dg.get_default_device().type != "cpu" else dg.from_numpy(host)
        for pin in (False, True):
            source = t.pin_memory() if pin else t
            for y in (source.to("cuda"), source.to("cuda", non_blocking=True)):
                for back in (y.cpu(), y.to("cpu", non_blocking=True), y.T.cpu().T, y.T.to("cpu", non_blocking=True).T):
                    cuda.synchronize()
                    np.testing.assert_array_equal(back.array, host)


def test_streams_wait_for_each_other() -> None:
    side = cuda.Stream()
    x = dg.ones(1 << 16, device="cuda")
    for _ in range(10):
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            y = x * 2 + 1
        cuda.current_stream().wait_stream(side)
        x = y - x
    assert x.tolist() == [11.0] * (1 << 16), "x became 2 x + 1 - x, ten times"
    begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    begin.record()
    (x @ x).item()
    end.record()
    end.synchronize()
    assert begin.elapsed_time(end) >= 0


def test_training_from_pinned_batches() -> None:
    rng = np.random.default_rng(0)
    data = TensorDataset(dg.tensor(rng.standard_normal((64, 8)).astype(np.float32), device="cpu"),
                         dg.tensor(rng.integers(0, 3, 64), device="cpu"))
    found = []
    for pin in (False, True):
        dg.manual_seed(0)
        model = nn.Linear(8, 3).to("cuda")
        optimizer = optim.Adam(model.parameters(), 0.1)
        for workers in (0, 2):
            for x, target in DataLoader(data, 16, num_workers=workers, pin_memory=pin):
                assert x.is_pinned() == target.is_pinned() == pin
                loss = F.cross_entropy(model(x.to("cuda", non_blocking=True)), target.to("cuda", non_blocking=True))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        found.append(model.weight.tolist())
    np.testing.assert_array_equal(found[0], found[1])


def test_two_devices() -> None:
    """Work beside its tensors, copies from device to device, with the other one current."""
    if cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    x = dg.randn(1 << 10, 1 << 8, device="cuda:1", requires_grad=True)
    with cuda.device(0):
        y = (x @ x.T).softmax(-1).sum(0)
        (y.to("cuda:0") ** 2).sum().backward()
    assert str(y.device) == str(x.grad.device) == "cuda:1"
    host = x.detach().cpu().requires_grad_()
    ((host @ host.T).softmax(-1).sum(0) ** 2).sum().backward()
    np.testing.assert_allclose(x.grad.cpu().array, host.grad.array, rtol=1e-3, atol=1e-4)
    for _ in range(20):
        z = dg.randn(1 << 18, device="cuda:1")
        assert abs(z.to("cuda:0").sum().item() - z.sum().item()) < 0.2
        del z
    with pytest.raises(RuntimeError, match=r"cuda:0.*cuda:1|cuda:1.*cuda:0"):
        x + dg.ones(1, device="cuda:0")
