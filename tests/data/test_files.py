"""Arrays in files: rows as tensors, read by batches, by rank, from threads and processes."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distgrad as dg
from distgrad.data import DataLoader, Dataset, DistributedSampler, HDF5Dataset, MemmapDataset, StackDataset

N = 30


def array(dtype: Any = "float32") -> np.ndarray:
    return np.arange(N * 6).reshape(N, 2, 3).astype(dtype)


def npy(folder: Path, values: np.ndarray) -> MemmapDataset:
    np.save(folder / "x.npy", values)
    return MemmapDataset(folder / "x.npy")


def raw(folder: Path, values: np.ndarray) -> MemmapDataset:
    (folder / "x.bin").write_bytes(b"head" + np.ascontiguousarray(values).tobytes())
    return MemmapDataset(folder / "x.bin", values.dtype, values.shape[1:], offset=4)


def hdf5(folder: Path, values: np.ndarray) -> HDF5Dataset:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("group/x", data=values, chunks=(4, *values.shape[1:]) if len(values) else None)
    return HDF5Dataset(folder / "x.h5", "group/x")


KINDS = pytest.mark.parametrize("make", [npy, raw, hdf5])


@KINDS
@pytest.mark.parametrize("dtype", ["float32", ">f8", "uint8", "bool", "<i4", "complex64"])
def test_rows_are_tensors(make: Any, dtype: str, tmp_path: Path) -> None:
    values = array(dtype)
    data = make(tmp_path, values)
    assert len(data) == N and data.shape == (N, 2, 3) and isinstance(data, Dataset)
    assert data[3].dtype == data.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(data[-1].numpy(), values[-1])
    row = data[3]
    row[0, 0] = 0  # rows are copies
    np.testing.assert_array_equal(data[3].numpy(), values[3])
    for wrong in (N, -N - 1):
        with pytest.raises(IndexError, match=f"index {wrong} is outside of 30"):
            data[wrong]
    with pytest.raises(TypeError, match="whole numbers"):
        data[1.5]


@KINDS
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices=st.lists(st.integers(-N, N - 1), min_size=1, max_size=12))
def test_many_rows_at_once(make: Any, indices: list[int], tmp_path: Path) -> None:
    data = make(tmp_path, array())
    np.testing.assert_array_equal(data.__getitems__(indices).batch.numpy(), array()[indices])


@KINDS
@pytest.mark.parametrize("options", [{}, {"num_workers": 3}, pytest.param({"num_workers": 2, "worker": "process"},
                                                                         marks=pytest.mark.slow)])
def test_loaders_read_them(make: Any, options: dict, tmp_path: Path) -> None:
    data = make(tmp_path, array())
    data[0]  # an open file is not sent to a process
    batches = list(DataLoader(data, 7, **options))
    np.testing.assert_array_equal(dg.cat(batches).numpy(), array())
    pairs = StackDataset(x=data, y=data)
    found = dg.cat([batch["y"] for batch in DataLoader(pairs, 7, shuffle=True, **options)]).numpy()
    np.testing.assert_array_equal(found[found[:, 0, 0].argsort()], array())


@KINDS
def test_each_rank_reads_its_own_rows(make: Any, tmp_path: Path) -> None:
    data = make(tmp_path, array())
    read: list[list[int]] = []
    inner = data._read
    data._read = lambda indices: (read.append(indices.tolist()), inner(indices))[1]
    mine = DistributedSampler(data, 3, 1)
    seen = dg.cat(list(DataLoader(data, 4, sampler=mine)))[:, 0, 0] // 6
    assert seen.tolist() == [i for rows in read for i in rows] == list(mine)
    parts = [data.shard(4, index) for index in range(4)]
    assert [len(part) for part in parts] == [7, 8, 7, 8]
    assert [int(part[i][0, 0].item()) // 6 for part in parts for i in range(len(part))] == list(range(N))
    with pytest.raises(ValueError, match="shard 4 is not one of 4"):
        data.shard(4, 4)


def test_neighbours_are_read_at_once(tmp_path: Path) -> None:
    data = hdf5(tmp_path, array())
    source, reads = data._source(), []

    class Counted:
        def read_direct(self, out, rows, places):
            reads.append(range(rows.start, rows.stop))
            source.read_direct(out, rows, places)

        def __getitem__(self, rows):
            reads.append(rows.tolist())
            return source[rows]

    data._source = Counted
    for indices in (range(5, 12), [*range(12, 1, -1), *range(15, 26)], [9, 4, 3, 20, 3]):
        np.testing.assert_array_equal(data.__getitems__(indices).batch.numpy(), array()[list(indices)])
    assert reads == [range(5, 12), range(2, 13), range(15, 26), [3, 4, 9, 20]]


@KINDS
def test_transforms(make: Any, tmp_path: Path) -> None:
    data = make(tmp_path, array())
    data.transform = lambda row: (row.sum(), row[0, 0] > 6)
    total, large = next(iter(DataLoader(data, 3)))
    assert total.tolist() == array()[:3].sum((1, 2)).tolist() and large.tolist() == [False, False, True]


@KINDS
def test_threads_share_a_file(make: Any, tmp_path: Path) -> None:
    data = make(tmp_path, array())
    wrong: list[int] = []

    def body(seed: int) -> None:
        for indices in np.random.default_rng(seed).integers(0, N, (50, 5)):
            if not np.array_equal(data.__getitems__(indices).batch.numpy(), array()[indices]):
                wrong.append(seed)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@KINDS
def test_nothing_in_a_file(make: Any, tmp_path: Path) -> None:
    data = make(tmp_path, array()[:0])
    assert len(data) == 0 and list(DataLoader(data, 2)) == []
    with pytest.raises(IndexError):
        data[0]


def test_columns_first_and_a_closed_file(tmp_path: Path) -> None:
    data = npy(tmp_path, np.asfortranarray(array()))
    np.testing.assert_array_equal(data[7].numpy(), array()[7])
    other = hdf5(tmp_path, array())
    other[0]
    other.close()
    np.testing.assert_array_equal(other[7].numpy(), array()[7])


def test_relative_paths_are_those_of_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npy(tmp_path, array())
    monkeypatch.chdir(tmp_path)
    data = MemmapDataset("x.npy")
    monkeypatch.chdir(os.sep)
    assert data[1][0, 0].item() == 6


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5(tmp_path, array())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "distgrad\[hdf5\]"'):
        HDF5Dataset(tmp_path / "x.h5", "group/x")


def cut_off(path: Path) -> MemmapDataset:
    np.save(path / "x.npy", array())
    os.truncate(path / "x.npy", 300)
    return MemmapDataset(path / "x.npy")


def objects(path: Path) -> MemmapDataset:
    np.save(path / "x.npy", np.array([{}, []], object), allow_pickle=True)
    return MemmapDataset(path / "x.npy")


def texts(path: Path) -> HDF5Dataset:
    with h5py.File(path / "x.h5", "w") as file:
        file["x"] = ["a", "b"]
    return HDF5Dataset(path / "x.h5", "x")


@pytest.mark.parametrize("make, error, text", [
    (lambda path: MemmapDataset(path / "none.npy"), FileNotFoundError, "no file .*none.npy"),
    (lambda path: HDF5Dataset(path / "none.h5", "x"), FileNotFoundError, "no file .*none.h5"),
    (cut_off, ValueError, "cut off"),
    (objects, TypeError, "holds object"),
    (texts, TypeError, "holds object"),
    (lambda path: npy(path, np.float32(3)), ValueError, "single number"),
    (lambda path: npy(path, np.zeros(2, "U3")), TypeError, "<U3"),
    (lambda path: raw(path, array()) and MemmapDataset(path / "x.bin"), ValueError, "no .npy file.*needs a dtype"),
    (lambda path: raw(path, array()) and MemmapDataset(path / "x.bin", "f4", (2, 3)), ValueError, "rows of 24 bytes"),
    (lambda path: raw(path, array()) and MemmapDataset(path / "x.bin", "U"), ValueError, "rows of 0 bytes"),
    (lambda path: raw(path, array()) and MemmapDataset(path / "x.bin", "f4", (0,)), ValueError, "row_shape"),
    (lambda path: npy(path, array()) and MemmapDataset(path / "x.npy", offset=4), ValueError, "their dtype"),
    (lambda path: npy(path, array()) and HDF5Dataset(path / "x.npy", "x"), OSError, "cannot be read as an HDF5"),
    (lambda path: hdf5(path, array()) and HDF5Dataset(path / "x.h5", "y"), KeyError, "no dataset 'y'.*group/x"),
    (lambda path: hdf5(path, array()) and HDF5Dataset(path / "x.h5", "group"), KeyError, "no dataset 'group'"),
    (lambda path: hdf5(path, array()) and HDF5Dataset(path / "x.h5", 3), TypeError, "name is a string"),
    (lambda path: npy(path, array()) and MemmapDataset(path / "x.npy", transform=3), TypeError, "transform"),
])
def test_refusals(make: Any, error: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=text):
        make(tmp_path)
