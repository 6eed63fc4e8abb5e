"""Disks that are full or fail, many saves, and folders that vanish: training goes on, older checkpoints are whole."""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import checkpoint, nn, simulate
from distgrad.checkpoint import Checkpointer, files, writing
from distgrad.errors import CheckpointError
from tests.checkpoint.training import Training, bits

ROOT = Path(__file__).resolve().parents[2]


def full(monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
    """From now on `os.write` fails where `fails(handle)` says so."""
    real = os.write

    def write(handle: int, data: Any) -> int:
        if len(data) > 8 and fails(os.readlink(f"/proc/self/fd/{handle}")):
            real(handle, data[:len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", "the disk")
        return real(handle, data)

    monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("what", ["rank-00001.safetensors", "model.safetensors", "manifest.json"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_raises_on_all_ranks_and_training_goes_on(asynchronous: bool, what: str, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    on = threading.Event()
    full(monkeypatch, lambda path: on.is_set() and path.endswith(what) and ".part/" in path)

    def body(rank: int) -> tuple[Any, Any]:
        training = Training()
        with Checkpointer(tmp_path / "c") as checkpoints:
            training.run(2)
            checkpoints.save(2, training.state)
            saved = bits(training)
            training.run(1)
            on.set()
            with pytest.raises(OSError, match="No space left") as caught:
                checkpoints.save(3, training.state, asynchronous=asynchronous)
                training.run(1)
                checkpoints.wait()
            assert caught.value.errno == errno.ENOSPC
            on.clear()
            training.run(1)
            assert checkpoints.steps() == [2]
            checkpoints.save(4, training.state)
            assert checkpoints.steps() == [4, 2]
            checkpoints.restore(training.state, step=2)
            return saved, bits(training)

    for saved, found in simulate(3)(body):
        assert all(np.array_equal(saved[name], found[name]) for name in saved if isinstance(saved[name], np.ndarray))
    assert sorted(os.listdir(tmp_path / "c")) == ["000001-step-2", "000002-step-4", "lock"]


def test_a_folder_in_which_others_still_write_is_given_up_all_the_same(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing it fails while another rank puts files there; nobody waits for that."""
    on, attempts, real = threading.Event(), [], shutil.rmtree
    full(monkeypatch, lambda path: on.is_set() and path.endswith("model.safetensors") and ".part/" in path)

    def rmtree(path: Any, *args: Any, **kwargs: Any) -> None:
        if on.is_set() and len(attempts) < 3:
            attempts.append(path)
            raise OSError(errno.ENOTEMPTY, "Directory not empty", path)
        real(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", rmtree)

    def body(rank: int) -> None:
        training = Training()
        with Checkpointer(tmp_path / "c") as checkpoints:
            training.run(1)
            on.set()
            with pytest.raises(OSError, match="No space left"):
                checkpoints.save(1, training.state, asynchronous=True)
                checkpoints.wait()

    simulate(3)(body)
    assert len(attempts) == 3 and os.listdir(tmp_path / "c") == ["lock"]


def test_where_a_full_disk_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capfd: pytest.CaptureFixture[str]) -> None:
    on = threading.Event()
    full(monkeypatch, lambda path: on.is_set() and path.endswith("rank-00001.safetensors"))

    def body(rank: int) -> None:
        training = Training()
        training.run(1)
        with Checkpointer(tmp_path / "c", on_error="warn") as checkpoints:
            assert checkpoints.save(1, training.state)
            on.set()
            assert not checkpoints.save(2, training.state)
            assert checkpoints.save(3, training.state, asynchronous=True)
            assert not checkpoints.wait() and checkpoints.wait()
            assert checkpoints.failed_saves == 2 and checkpoints.steps() == [1]
            on.clear()
            assert checkpoints.save(4, training.state)
            with pytest.raises(TypeError):  # a mistake is one on any disk
                checkpoints.save(5, {"x": 3})

    simulate(2)(body)
    said = [line for line in capfd.readouterr().err.splitlines() if "given up" in line]
    assert len(said) == 2 and "step 2" in said[0] and "step 3" in said[1] and "No space left" in said[1]
    with pytest.raises(ValueError, match="'raise' or 'warn'"):
        Checkpointer(tmp_path / "c", on_error="ignore")


LIMITED = """
import resource, signal, sys
import distgrad as dg
from distgrad import nn
from distgrad.checkpoint import Checkpointer
small, large = nn.Linear(10, 10), nn.Linear(600, 600)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpointer(sys.argv[1])
checkpoints.save(1, {"model": small})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
for asynchronous in (False, True):
    try:
        checkpoints.save(2, {"model": large}, asynchronous=asynchronous)
        checkpoints.wait()
    except OSError as error:
        print("refused", error.errno)
checkpoints.save(3, {"model": small})
print(checkpoints.steps())
"""


def test_a_limit_of_the_kernel(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path / "c")], cwd=ROOT, capture_output=True,
                          text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines() == [f"refused {errno.EFBIG}"] * 2 + ["[3, 1]"], done.stderr


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 2 MB: the second checkpoint does not fit, the third does."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True) \
        if os.geteuid() == 0 else None
    if made is None or made.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        def body(rank: int) -> None:
            dg.manual_seed(0)
            small, large = nn.Linear(100, 100), nn.Linear(900, 900)
            with Checkpointer(place / "c") as checkpoints:
                checkpoints.save(1, {"model": small})
                for asynchronous in (False, True):
                    with pytest.raises(OSError) as caught:
                        checkpoints.save(2, {"model": large}, asynchronous=asynchronous)
                        checkpoints.wait()
                    assert caught.value.errno == errno.ENOSPC
                    assert checkpoints.steps() == [1]
                checkpoints.save(3, {"model": small})
                assert checkpoints.restore({"model": small}, step=1).step == 1
                assert checkpoints.restore({"model": small}).step == 3

        simulate(2)(body)
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_other_calls_that_fail(call: str, asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(rank: int) -> None:
        model = nn.Linear(3, 3)
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(1, {"model": model})
            real = getattr(os, call)

            def broken(*args: Any, **keywords: Any) -> Any:
                if call == "mkdir" or rank == 0:
                    raise OSError(errno.EIO, "Input/output error", "the disk")
                return real(*args, **keywords)

            with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
                patch.setattr(os, call, broken)
                checkpoints.save(2, {"model": model}, asynchronous=asynchronous)
                checkpoints.wait()
            checkpoints.save(3, {"model": model})
            assert checkpoints.steps() == [3, 1]

    body(0)
    assert sorted(os.listdir(tmp_path / "c")) == ["000001-step-1", "000002-step-3", "lock"]


def test_a_folder_that_vanishes_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    def body(rank: int) -> None:
        training = Training()
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(1, training.state)
            if rank == 2:
                real = writing.Job._write

                def write(job: Any) -> None:
                    real(job)
                    if job._rank == 0:
                        shutil.rmtree(next((tmp_path / "c").glob(".*.part")), ignore_errors=True)

                writing.Job._write = write  # type: ignore[method-assign]
            with pytest.raises((OSError, CheckpointError)):
                checkpoints.comm.barrier()
                checkpoints.save(2, training.state)
            checkpoints.comm.barrier()
            if rank == 2:
                writing.Job._write = real  # type: ignore[method-assign]
            checkpoints.comm.barrier()
            checkpoints.save(3, training.state)
            assert checkpoints.steps() == [3, 1]

    simulate(3)(body)


def test_the_next_save_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = files.write_file

    def slow(folder: int, name: str, parts: Any) -> tuple[int, str]:
        order.append(f"{threading.current_thread().name}: {name}")
        if name == "model.safetensors":
            time.sleep(1)
        return real(folder, name, parts)

    monkeypatch.setattr("distgrad.checkpoint.tensorfile.write_file", slow)
    model = nn.Linear(3, 3)
    with Checkpointer(tmp_path / "c") as checkpoints:
        begin = time.monotonic()
        checkpoints.save(1, {"model": model}, asynchronous=True)
        assert time.monotonic() - begin < 0.9 and checkpoints.steps() == []
        checkpoints.save(2, {"model": model}, asynchronous=True)
        assert time.monotonic() - begin >= 1 and checkpoints.steps() == [1]
    assert checkpoint.load(tmp_path / "c", {"model": model}).step == 2, "close waits"
    assert {line.partition(":")[0] for line in order} == {"distgrad-checkpoint"}


ENDS = """
import sys
from distgrad import nn
from distgrad.checkpoint import Checkpointer
checkpoints = Checkpointer(sys.argv[1])
checkpoints.save(1, {"model": nn.Linear(1500, 1500)}, asynchronous=True)
"""


def test_a_save_that_is_under_way_when_the_program_ends_is_completed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ENDS, str(tmp_path / "c")], cwd=ROOT, check=True, timeout=60,
                   env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert checkpoint.load(tmp_path / "c", {"model": nn.Linear(1500, 1500)}).step == 1


def test_an_exception_in_training_leaves_what_was_saved(tmp_path: Path) -> None:
    def body(rank: int) -> None:
        training = Training()
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(1, training.state, asynchronous=True)
            raise KeyError(rank)

    with pytest.raises(KeyError):
        simulate(2)(body)
    with Checkpointer(tmp_path / "c") as checkpoints:
        assert checkpoints.steps() == [1]


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_a_thousand_saves_and_rotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No growth of descriptors, files, threads or memory after the first ones."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the disk's own time is not what is looked at
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    optimizer = dg.optim.Adam(model.parameters())
    with Checkpointer(tmp_path / "c", keep=2) as checkpoints:
        for step in range(1000):
            model(dg.ones(2, 100)).sum().backward()
            optimizer.step()
            checkpoints.save(step, {"model": model, "optimizer": optimizer}, {"step": step},
                             asynchronous=bool(step % 2))
            if step == 100:
                checkpoints.wait()
                gc.collect()
                before = resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
            if step % 100 == 0:
                checkpoints.restore({"model": model, "optimizer": optimizer})
        checkpoints.wait()
        gc.collect()
        after = resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
        assert after[1:] == before[1:]
        assert after[0] - before[0] < 4 << 20
        assert checkpoints.steps() == [999, 998] and len(os.listdir(tmp_path / "c")) == 3
        assert sum(len(names) for _, _, names in os.walk(tmp_path / "c")) == 2 * 3 + 1
