"""DataLoader(pin_memory=True): batches in pinned memory, whoever reads them; over the stand-in for cupy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import numpy as np
import pytest

import distgrad as dg
from distgrad import backend, cuda
from distgrad.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    MemmapDataset,
    StackDataset,
    TensorDataset,
    get_worker_info,
)
from distgrad.graph.base import TensorBase

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cpu', 'strict')", reason="about hosts alone")
WORKERS = pytest.mark.parametrize("workers, kind", [(0, "thread"), (2, "thread"), (2, "process")])


@pytest.fixture(scope="module", autouse=True)
def the_tracker_exists_before_the_tests() -> None:
    resource_tracker.ensure_running()  # lives as long as the program: no test's leak


class Pair(NamedTuple):
    x: Any
    y: Any


class Arrays(Dataset[Any]):
    """A sample of every kind that default_collate knows."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        x = np.full((40, 50), index, np.float32)
        return {"array": x, "pair": Pair(x[0], index), "list": [index, 0.5], "name": f"sample {index}"}


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        assert get_worker_info() is None or get_worker_info().num_workers == 2
        return (np.full(30, i, np.float64) for i in range(6))


class Own:
    """A batch that says itself how it is pinned."""

    def __init__(self, x: Any, pinned: bool = False) -> None:
        self.x, self.pinned = x, pinned

    def pin_memory(self) -> Own:
        return Own(self.x.pin_memory(), True)


def as_own(samples: Any) -> Own:
    return Own(dg.tensor(np.stack([s["array"] for s in samples]), device="cpu"))


def as_tuple(samples: Any) -> Any:
    return tuple(np.stack([s["array"] for s in samples])), len(samples)


def tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, TensorBase):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)


def listed(value: Any) -> Any:
    if isinstance(value, TensorBase):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: listed(part) for key, part in value.items()}
    return type(value)(*map(listed, value)) if isinstance(value, Pair) else \
        list(map(listed, value)) if isinstance(value, (list, tuple)) else value


@WORKERS
def test_batches_are_pinned_and_the_same(cupy: Any, workers: int, kind: str) -> None:
    def loader(pin: bool) -> DataLoader:
        return DataLoader(Arrays(), 4, num_workers=workers, worker=kind, pin_memory=pin)

    plain = [listed(batch) for batch in loader(False)]
    count = 0
    for batch, expected in zip(loader(True), plain, strict=True):
        found = list(tensors(batch))
        assert len(found) == 5 and all(t.is_pinned() and t.device.type == "cpu" for t in found)
        assert isinstance(batch["pair"], Pair) and listed(batch) == expected
        sent = batch["array"].to("cuda", non_blocking=True)
        assert sent.tolist() == batch["array"].tolist()
        count += 1
    assert count == 3


@WORKERS
def test_streams_and_custom_batches(cupy: Any, workers: int, kind: str) -> None:
    options: dict[str, Any] = {"num_workers": workers, "worker": kind, "pin_memory": True}
    assert all(batch.is_pinned() for batch in DataLoader(Streamed(), 3, **options))
    if kind == "thread":
        batches = list(DataLoader(Arrays(), 4, collate_fn=as_own, **options))
        assert all(batch.pinned and batch.x.is_pinned() for batch in batches)
    rows, count = next(iter(DataLoader(Arrays(), 4, collate_fn=as_tuple, **options)))
    assert count == 4 and isinstance(rows, tuple) and isinstance(rows[0], np.ndarray)


def test_batches_are_made_where_they_are_pinned(cupy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No second copy: nothing that default_collate or a file dataset makes has to be pinned afterwards."""
    values = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    memory = TensorDataset(dg.tensor(values, device="cpu"))
    data = StackDataset(MemmapDataset(tmp_path / "x.npy"), memory)
    gpu = backend.get("cuda")

    def late(host: Any) -> Any:
        raise AssertionError("copied to be pinned")

    monkeypatch.setattr(gpu, "pinned", late)
    for order in ([0, 1, 2, 3], [9, 3, 17, 0]):
        (x, (y,)), = DataLoader(data, batch_sampler=[order], pin_memory=True)
        np.testing.assert_array_equal(x.array, values[order])
        np.testing.assert_array_equal(y.array, values[order])
    class Samples(Arrays):
        def __getitem__(self, index: int) -> Any:
            return dg.tensor(values[index], device="cpu"), values[index]

    a, b = next(iter(DataLoader(Samples(), 5, pin_memory=True, num_workers=1)))
    np.testing.assert_array_equal(a.array, values[:5])
    np.testing.assert_array_equal(b.array, values[:5])
    with pytest.raises(IndexError):
        list(DataLoader(memory, batch_sampler=[[0, 99]], pin_memory=True))


def test_which_device_it_is_for(cupy: Any) -> None:
    cupy.devices = 2
    gpu = backend.get("cuda")
    seen: list[int] = []
    made = gpu.host_memory
    gpu.host_memory = lambda *args: (seen.append(gpu.current()), made(*args))[1]
    for device, expected in (("cuda:1", 1), ("", 0), (dg.device("cuda", 1), 1)):
        for workers in (0, 2):
            seen.clear()
            list(DataLoader(Arrays(), 4, num_workers=workers, pin_memory=True, pin_memory_device=device))
            assert set(seen) == {expected}
    with cuda.device(1):
        seen.clear()
        list(DataLoader(Arrays(), 4, num_workers=1, pin_memory=True))
        assert set(seen) == {1}


def test_without_a_device_a_warning_says_why() -> None:
    with pytest.warns(UserWarning, match="batches lie in ordinary memory .* no device takes them: .*cuda"):
        loader = DataLoader(Arrays(), 4, pin_memory=True)
    assert not any(t.is_pinned() for batch in loader for t in tensors(batch)) and "cupy.cuda" not in sys.modules
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(DataLoader(Arrays(), 4))) == 3


def test_the_host_may_be_unable_to_pin(cupy: Any) -> None:
    cupy.pinned = 4000
    for workers in (0, 1):
        with pytest.raises(cuda.OutOfMemoryError, match=r"can be pinned .*do without pin_memory") as caught:
            list(DataLoader(Arrays(), 4, pin_memory=True, num_workers=workers))
        assert "batch 0" in caught.value.__notes__[0]
