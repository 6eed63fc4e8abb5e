"""Copies between host and device: who waits, what is kept, what is right when. The stand-in copies late."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import backend, cuda, nn
from distgrad.autograd.graph import save_on_cpu

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cpu', 'strict')", reason="about hosts alone")


def host(*shape: int, seed: int = 0) -> Any:
    """A tensor of the host, whatever the default device is."""
    return dg.tensor(np.random.default_rng(seed).standard_normal(shape), device="cpu")


@pytest.fixture
def lazy(cupy: Any) -> Any:
    cupy.lazy = True
    return cupy


def gpu() -> Any:
    return backend.get("cuda")


def test_pinning(cupy: Any) -> None:
    x = host(3, 4)
    pinned = x.pin_memory()
    assert not x.is_pinned() and pinned.is_pinned() and pinned.device.type == "cpu"
    assert pinned.tolist() == x.tolist() and pinned.pin_memory() is pinned and pinned[1:].is_pinned()
    assert host(0, 2).pin_memory().shape == (0, 2)
    with pytest.raises(RuntimeError, match=r"only memory of the host is pinned, this tensor is on cuda:0"):
        x.cuda().pin_memory()
    assert not x.cuda().is_pinned()
    x.requires_grad = True
    (x.pin_memory() * 2).sum().backward()
    assert x.grad.tolist() == [[2.0] * 4] * 3


def test_tensors_are_made_in_pinned_memory(cupy: Any) -> None:
    for made, values in ((dg.zeros(2, device="cpu", pin_memory=True), [0.0, 0.0]),
                         (dg.ones(2, device="cpu", pin_memory=True, requires_grad=True), [1.0, 1.0]),
                         (dg.full((2,), 3, device="cpu", pin_memory=True), [3, 3]),
                         (dg.tensor([1, 2], device="cpu", pin_memory=True), [1, 2]),
                         (dg.tensor(host(2), pin_memory=True), host(2).tolist()),
                         (dg.empty(2, device="cpu", pin_memory=True).fill_(5.0), [5.0, 5.0])):
        assert made.is_pinned() and made.is_leaf and made.tolist() == values
    with pytest.raises(RuntimeError, match="only memory of the host is pinned"):
        dg.zeros(2, device="cuda", pin_memory=True)


def test_from_pinned_memory_nobody_waits_and_the_source_stays(lazy: Any) -> None:
    pinned = host(8).pin_memory()
    expected = pinned.tolist()
    x = pinned.to("cuda", non_blocking=True)
    where = pinned.array.__array_interface__["data"][0]
    del pinned
    gc.collect()
    again = gpu().host_memory((8,), "float64")
    assert again.__array_interface__["data"][0] != where, "the block is in use"
    again[...] = -1
    cuda.synchronize()
    assert x.tolist() == expected
    gpu().host_memory((1,), "float64")
    assert gpu().host_memory((8,), "float64").__array_interface__["data"][0] == where, "and free after the copy"


def test_it_is_read_late_indeed(lazy: Any) -> None:
    """The stand-in shows what a program does wrong: it writes into the source before the copy has ended."""
    pinned = host(8).pin_memory()
    x = pinned.to("cuda", non_blocking=True)
    pinned.fill_(7)
    cuda.synchronize()
    assert x.tolist() == [7.0] * 8


@pytest.mark.parametrize("pin", [False, True])
def test_all_other_copies_have_read_the_host_when_they_return(lazy: Any, pin: bool) -> None:
    source = host(4, 6)
    source = source.pin_memory() if pin else source
    expected = source.tolist()
    made = [source.to("cuda"), source.cuda(), dg.zeros(4, 6, dtype=dg.float64, device="cuda")]
    made[2].copy_(source)
    gpu().fill_from_host(target := gpu().xp.empty((4, 6), "float64"), source.array)
    backend.get("cuda").fill_from_host(turned := gpu().xp.empty((6, 4), "float64").T, source.array)
    source.fill_(0)
    cuda.synchronize()
    assert [x.tolist() for x in made] == [expected] * 3
    assert gpu().to_host(target).tolist() == gpu().to_host(turned).tolist() == expected


def test_memory_that_is_not_pinned_need_not_wait_either(lazy: Any) -> None:
    source = host(5)
    expected = source.tolist()
    x = source.to("cuda", non_blocking=True)
    source.fill_(0)
    assert x.tolist() == expected


@pytest.mark.parametrize("lies", ["whole", "turned", "in pieces"])
def test_to_the_host_without_waiting(lazy: Any, lies: str) -> None:
    x = host(6, 4).cuda()
    x = {"whole": x, "turned": x.T, "in pieces": x[:, ::2]}[lies]
    expected = x.tolist()
    y = x.to("cpu", non_blocking=True)
    assert y.is_pinned() and y.device.type == "cpu"
    assert y.tolist() != expected, "not there yet"
    del x  # its memory stays until the copy has ended
    gc.collect()
    cuda.synchronize()
    assert y.tolist() == expected
    z = (y.cuda() * 1).cpu()
    assert z.tolist() == expected and not z.is_pinned()


def test_what_is_dropped_before_it_came_disturbs_nobody(lazy: Any) -> None:
    x = host(16).cuda()
    x.to("cpu", non_blocking=True)
    gc.collect()
    mine = gpu().host_memory((16,), "float64")
    mine[...] = 5
    cuda.synchronize()
    assert mine.tolist() == [5.0] * 16


def test_a_copy_that_was_begun_keeps_what_it_reads(lazy: Any) -> None:
    """As the reducer begins them: on a stream of their own, and perhaps never waited for."""
    array = host(32).cuda().array
    expected = gpu().to_host(array).tolist()
    out = np.zeros(32)
    gpu().pin(out)
    copy = gpu().start_to_host(array, out)
    del array
    gc.collect()
    assert not copy.done and not out.any()
    copy.wait()
    assert copy.done and out.tolist() == expected
    gpu().start_to_host(host(32).cuda().array, out)
    gc.collect()
    cuda.synchronize()


def test_casts_and_flags_by_position(lazy: Any) -> None:
    x = host(3).pin_memory()
    assert x.to("cuda", "float32", True).dtype == np.float32
    y = host(3).cuda()
    assert y.to("cpu", dg.float32, True).tolist() == pytest.approx(host(3).tolist()), "a cast on the host waits"
    assert y.to("cuda", True) is y and y.to("cuda", True, True) is not y


def test_copy_into_tensors_of_the_host_waits(lazy: Any) -> None:
    x, y = host(3), dg.zeros(3, dtype=dg.float64, device="cpu").pin_memory()
    y.copy_(x.cuda(), non_blocking=True)
    assert y.tolist() == x.tolist()
    target = dg.zeros(3, dtype=dg.float64, device="cuda")
    target.copy_(y, non_blocking=True)
    assert target.tolist() == x.tolist()


def test_modules_move_without_waiting(lazy: Any) -> None:
    net = nn.Linear(3, 2).to("cpu")
    expected = net.weight.tolist()
    assert net.to("cuda", non_blocking=True) is net and net.weight.tolist() == expected
    assert net.to("cpu", non_blocking=True).weight.is_pinned()
    cuda.synchronize()
    assert net.weight.tolist() == expected


def test_saved_tensors_wait_on_the_host(lazy: Any) -> None:
    found = []
    for pin in (False, True):
        x = host(4, 4).cuda().requires_grad_()
        with save_on_cpu(pin_memory=pin):
            y = (x.exp() * x).sum()
        y.backward()
        found.append(x.grad.tolist())
    assert found[0] == found[1]


def test_a_host_whose_memory_cannot_be_pinned(cupy: Any) -> None:
    x = host(1 << 10)
    cupy.pinned = 1 << 10
    with pytest.raises(cuda.OutOfMemoryError, match=r"no 0\.0 MiB left that can be pinned .*do without pin_memory"):
        x.pin_memory()
    assert host(4).pin_memory().is_pinned()
    assert not gpu().is_pinned(gpu().host_memory((1 << 10,), "float64")), "staging goes on, more slowly"
    y = x.cuda().to("cpu", non_blocking=True)
    assert y.tolist() == x.tolist()


def test_pinned_blocks_are_given_back_before_the_host_is_called_full(lazy: Any) -> None:
    lazy.pinned = 1024
    x = host(10).pin_memory().to("cuda", non_blocking=True)
    with pytest.raises(cuda.OutOfMemoryError):
        host(100).pin_memory()
    cuda.synchronize()
    assert host(100).pin_memory().is_pinned() and x.shape == (10,)
    cuda.empty_cache()


def test_without_a_device_it_says_why() -> None:
    for way in (host(2).pin_memory, lambda: dg.empty(2, device="cpu", pin_memory=True)):
        with pytest.raises(RuntimeError, match="device 'cuda' needs"):
            way()
    assert not host(2).is_pinned() and host(2).to("cpu", non_blocking=True).tolist() == host(2).tolist()
    x = dg.ones(2, device="strict")
    assert x.to("cpu", non_blocking=True).tolist() == [1.0, 1.0] and not x.is_pinned()
    assert host(2).to("strict", non_blocking=True).device.type == "strict"
