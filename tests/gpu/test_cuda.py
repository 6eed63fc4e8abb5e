"""distgrad.cuda: which device is meant where, streams, events, and what is told about devices. Over the stand-in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import backend, cuda

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cpu', 'strict')", reason="about hosts alone")


@pytest.fixture
def four(cupy: Any) -> Any:
    cupy.devices = 4
    return cupy


def in_a_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def where() -> int:
    """On which device a new tensor lies."""
    return dg.zeros(1, device="cuda").device.index


LAUNCHED = {"OMPI_COMM_WORLD_RANK": "11", "OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "5"}


def test_cuda_is_the_device_of_the_local_rank(four: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert cuda.current_device() == where() == 1
    assert dg.zeros(1, device="cuda:0").device.index == 0 and dg.ones(2, device="cpu").cuda().device.index == 1
    assert in_a_thread(where) == 1, "also in new threads"
    with cuda.device(3):
        assert where() == cuda.current_device() == 3 and in_a_thread(where) == 1
    assert where() == 1
    cuda.set_device(2)
    assert where() == 2 and in_a_thread(where) == 2, "what the main thread says holds in new threads"

    def mine() -> tuple[int, int]:
        cuda.set_device("cuda:3")
        return where(), in_a_thread(where)

    assert in_a_thread(mine) == (3, 2) and where() == 2, "what another thread says holds there alone"


def test_the_first_use_may_be_a_context(four: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)

    def inside() -> tuple[int, int]:
        with cuda.device(2):
            found = where()
        return found, where()

    assert in_a_thread(inside) == (2, 1)


def test_a_device_chosen_through_cupy_stays(four: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)

    def chosen() -> int:
        cupy.cuda.Device(2).use()
        return where()

    assert in_a_thread(chosen) == 2


def test_simulated_ranks_take_turns(four: Any) -> None:
    four.devices = 2
    assert dg.simulate(3)(lambda rank: where()) == [0, 1, 0]

    def chosen(rank: int) -> tuple[int, int]:
        cuda.set_device(1 - rank)
        return where(), (dg.ones(2, device="cuda") + 1).device.index

    assert dg.simulate(2)(chosen) == [(1, 1), (0, 0)] and where() == 0


def test_the_default_device_is_each_threads_own(four: Any) -> None:
    before = dg.get_default_device()
    try:
        dg.set_default_device("cuda")
        assert str(dg.get_default_device()) == "cuda:0"
        with cuda.device(2):
            assert dg.zeros(1).device.index == dg.tensor([1.0]).device.index == 2
            assert str(dg.get_default_device()) == "cuda:2"
        dg.set_default_device("cuda:3")
        assert dg.zeros(1).device.index == 3 and where() == 0
        with pytest.raises(RuntimeError, match="cuda:9 is not here"):
            dg.set_default_device("cuda:9")
        assert str(dg.get_default_device()) == "cuda:3"
    finally:
        dg.set_default_device(before)


def test_streams_and_events(four: Any) -> None:
    four.lazy = True
    main, side = cuda.current_stream(), cuda.Stream()
    assert main == cuda.default_stream() and main != side and str(side.device) == "cuda:0"
    pinned = dg.arange(4.0, device="cpu").pin_memory()
    with cuda.stream(side):
        assert cuda.current_stream() == side
        x = pinned.to("cuda", non_blocking=True)
        arrived = side.record_event()
    assert cuda.current_stream() == main and not side.query() and not arrived.query() and main.query()
    main.wait_event(arrived)
    assert (x * 2).tolist() == [0.0, 2.0, 4.0, 6.0], "what was queued before the event is there"
    side.synchronize()
    assert side.query() and arrived.query()
    main.wait_stream(side)
    with cuda.stream(None):
        assert cuda.current_stream() == main
    with cuda.stream(cuda.Stream("cuda:1")):
        assert where() == 1 and cuda.current_stream().device.index == 1
    assert len({main, cuda.default_stream(), side}) == 2 and "cuda:0" in repr(side)


def test_events_measure_time(cupy: Any) -> None:
    begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    with pytest.raises(RuntimeError, match="recorded and reached"):
        begin.elapsed_time(end)
    begin.record()
    dg.ones(4, device="cuda").sum()
    end.record(cuda.current_stream())
    end.synchronize()
    assert 0 < begin.elapsed_time(end) < 10_000
    with pytest.raises(RuntimeError, match="enable_timing=True"):
        begin.elapsed_time(cuda.Event())
    cuda.Event().wait()
    cuda.Event().synchronize()


def test_what_is_told(four: Any) -> None:
    found = cuda.get_device_properties(3)
    assert found.name == cuda.get_device_name() == "Stand-in" and found.total_memory == 16 << 20
    assert cuda.get_device_capability("cuda:1") == (9, 0) and found.multi_processor_count == 4
    assert cuda.memory_summary(1) == ("cuda:1: 3 MiB in tensors, 2 MiB kept for the next ones, 7 of 16 MiB free")
    with pytest.raises(RuntimeError, match="cuda:4 is not here"):
        cuda.get_device_properties(4)


def test_a_seed_is_one_for_all_devices(cupy: Any) -> None:
    cuda.manual_seed_all(7)
    a = dg.rand(3, device="cuda").tolist()
    dg.manual_seed(7)
    np.testing.assert_array_equal(dg.rand(3, device="cuda").tolist(), a)


def test_without_a_device() -> None:
    state = dg.get_rng_state()
    cuda.manual_seed(5)
    assert dg.rand(1).tolist() is not None and state is not None
    for way in (cuda.Stream, cuda.current_stream, lambda: cuda.Event().record(), cuda.get_device_properties,
                cuda.memory_summary, lambda: cuda.set_device(0)):
        with pytest.raises(RuntimeError, match="device 'cuda' needs"):
            way()
    assert "cuda" not in backend.base._BY_NAME
