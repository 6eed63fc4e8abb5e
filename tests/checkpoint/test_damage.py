"""Damaged, swapped and foreign checkpoints are refused by name, and the newest that is right is taken instead."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import checkpoint, nn, simulate
from distgrad.checkpoint import Checkpointer
from distgrad.checkpoint.manifest import Manifest, _digest
from distgrad.checkpoint.store import Store
from distgrad.comm import SelfCommunicator
from distgrad.distributed import world
from distgrad.errors import CheckpointError
from tests.checkpoint.training import Training, bits

MODEL = {"model": nn.Linear(3, 2)}


def two(folder: Path) -> tuple[Path, Path]:
    """An older and a newer checkpoint, of the steps 1 and 2."""
    with Checkpointer(folder) as checkpoints:
        for step in (1, 2):
            with dg.no_grad():
                MODEL["model"].weight.fill_(step)
            checkpoints.save(step, MODEL, {"step": step})
    return folder / "000001-step-1", folder / "000002-step-2"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as somebody does who knows how to make its hash right."""
    whole = json.loads((folder / "manifest.json").read_bytes())
    change(whole["content"])
    whole["sha256"] = _digest(whole["content"])
    (folder / "manifest.json").write_text(json.dumps(whole))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\0")


def replace(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def listen(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # paths of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, "damaged|not what it should be|is not that of|says of|a part that is none"),
    "cut": (cut, "bytes, and was saved with|not what it should be"),
    "grown": (grow, "bytes, and was saved with|not what it should be"),
    "emptied": (lambda path: os.truncate(path, 0), "0 bytes|not what it should be"),
    "removed": (os.unlink, "is missing"),
    "a link": (replace(lambda path: path.symlink_to("../000001-step-1/" + path.name)), "a symbolic link"),
    "a loop": (replace(lambda path: path.symlink_to(path.name)), "a symbolic link"),
    "a pipe": (replace(os.mkfifo), "a FIFO"),
    "a folder": (replace(os.mkdir), "a folder"),
    "a socket": (replace(listen), "a socket"),
}


@pytest.mark.parametrize("kind", sorted(DAMAGE))
@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_newest_that_is_right(kind: str, name: str, ranks: int, tmp_path: Path,
                                  capfd: pytest.CaptureFixture[str]) -> None:
    _, newer = two(tmp_path / "c")
    change, text = DAMAGE[kind]
    change(newer / name)

    def body(rank: int) -> None:
        model = nn.Linear(3, 2)
        found = checkpoint.load(tmp_path / "c", {"model": model})
        assert found.step == 1 and found.extra == {"step": 1} and found.path == str(tmp_path / "c" / "000001-step-1")
        assert len(found.skipped) == 1 and re.search(text, found.skipped[0]) and name in found.skipped[0]
        assert (model.weight.detach().numpy() == 1).all()
        with pytest.raises(CheckpointError, match=text):
            checkpoint.load(newer, {"model": model})
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* is right"):
            checkpoint.load(tmp_path / "c", {"model": model}, step=2)

    simulate(ranks)(body)
    said = [line for line in capfd.readouterr().err.splitlines() if "000002-step-2" in line]
    assert len(said) == 3 and all(line.startswith("distgrad: skipped the checkpoint") and name in line for line in said)


def test_devices_are_not_opened(tmp_path: Path) -> None:
    _, newer = two(tmp_path / "c")
    (newer / "model.safetensors").unlink()
    try:
        os.mknod(newer / "model.safetensors", 0o600 | 0o020000, os.makedev(1, 5))  # the one that gives zeros for ever
    except PermissionError:
        pytest.skip("only root can make devices")
    with pytest.raises(CheckpointError, match="a device"):
        checkpoint.load(newer, MODEL)


def test_swapped_files_and_folders(tmp_path: Path) -> None:
    older, newer = two(tmp_path / "c")
    shutil.copy(older / "model.safetensors", newer / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged, or that of another checkpoint"):
        checkpoint.load(newer, MODEL)
    shutil.copy(older / "manifest.json", newer / "manifest.json")  # now all of it is the older one
    with pytest.raises(CheckpointError, match="that of step 1: the folder was swapped"):
        checkpoint.load(tmp_path / "c", MODEL, step=2)
    shutil.rmtree(newer)
    newer.symlink_to(older)
    assert checkpoint.load(tmp_path / "c", MODEL).skipped == (), "a link is no checkpoint"

    def body(rank: int) -> None:
        training = Training()
        training.run(1)
        checkpoint.save(tmp_path / "one", training.state)

    simulate(2)(body)
    first, second = tmp_path / "one" / "rank-00000.safetensors", tmp_path / "one" / "rank-00001.safetensors"
    os.rename(first, tmp_path / "x")
    os.rename(second, first)
    os.rename(tmp_path / "x", second)

    def refused(rank: int) -> None:
        training = Training()
        before = bits(training)
        with pytest.raises(CheckpointError, match="rank-0000"):
            checkpoint.load(tmp_path / "one", training.state)
        after = bits(training)
        assert all(np.array_equal(before[name], after[name]) for name in before if name.startswith("model"))

    simulate(2)(refused)


def test_nothing_is_right(tmp_path: Path) -> None:
    for folder in two(tmp_path / "c"):
        flip(folder / "model.safetensors")
    with Checkpointer(tmp_path / "c") as checkpoints, pytest.raises(CheckpointError, match=r"(?s)step-2.*step-1"):
        checkpoints.resume(MODEL)  # days of work: not to be begun anew without a word


@pytest.mark.parametrize("name", ["../000001-step-1/model.safetensors", "/etc/passwd", "..", ".", "", "a/b", "x\0y",
                                  ".hidden", "x" * 300, "model.safetensors\n", 3])
def test_names_that_lead_out_of_the_folder(name: Any, tmp_path: Path) -> None:
    _, newer = two(tmp_path / "c")

    def change(content: dict[str, Any]) -> None:
        content["files"][str(name)] = content["files"].pop("model.safetensors")
        content["parts"]["model"]["files"] = [name]

    rewrite(newer, change)
    with pytest.raises(CheckpointError, match=r"no name of a file|a part that is none"):
        checkpoint.load(newer, MODEL)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no files": lambda content: content.pop("files"),
    "no parts": lambda content: content.pop("parts"),
    "a negative step": lambda content: content.update(step=-1),
    "a step that is none": lambda content: content.update(step=True),
    "a huge step": lambda content: content.update(step=1 << 70),
    "no ranks": lambda content: content.update(ranks=0),
    "a huge file": lambda content: content["files"].update({"model.safetensors": [1 << 70, "0" * 64]}),
    "a large file": lambda content: content["files"]["model.safetensors"].__setitem__(0, 1 << 50),
    "no hash": lambda content: content["files"]["model.safetensors"].pop(),
    "a short hash": lambda content: content["files"]["model.safetensors"].__setitem__(1, "00"),
    "a part without a file": lambda content: content["parts"]["model"].update(files=[]),
    "a part with a file that is none": lambda content: content["parts"]["model"].update(files=["other.safetensors"]),
    "a part without a state": lambda content: content["parts"]["model"].update(states=[]),
    "a part that is a number": lambda content: content["parts"].update(model=3),
    "an unknown form": lambda content: content["parts"]["model"].update(states=[{"$call": "os.system"}]),
    "no such array": lambda content: content["parts"]["model"].update(states=[{"weight": {"$tensor": "w"}}]),
    "no pairs": lambda c: c["parts"]["model"]["states"][0].update(weight={"$tensor": "weight", "as": "complex128"}),
    "other keys": lambda content: content["parts"]["model"].update(states=[{"weight": {"$tensor": "weight", "x": 1}}]),
    "pieces": lambda c: c["parts"]["model"]["states"][0].update(weight={"$sharded": {
        "key": "x", "dtype": "float32", "shape": [1 << 40], "order": [0], "pieces": [[0, 0, 1 << 40, 0]]}}),
    "negative pieces": lambda c: c["parts"]["model"]["states"][0].update(weight={"$sharded": {
        "key": "x", "dtype": "float32", "shape": [1], "order": [0], "pieces": [[0, 0, 1, -1]]}}),
    "strange pieces": lambda c: c["parts"]["model"]["states"][0].update(weight={"$sharded": {
        "key": "x", "dtype": "object", "shape": ["a"], "order": [[]], "pieces": 3}}),
    "a key that is a list": lambda c: c["parts"]["model"].update(states=[{"$dict": [[[1], 2]]}]),
    "no random streams": lambda content: content["parts"].pop("random"),
    "no stream": lambda content: content["parts"]["random"].update(states=["x"]),
}


@pytest.mark.parametrize("kind", sorted(CHANGES))
def test_manifests_that_are_right_in_form_only(kind: str, tmp_path: Path) -> None:
    _, newer = two(tmp_path / "c")
    rewrite(newer, CHANGES[kind])
    with dg.no_grad():
        MODEL["model"].weight.fill_(7)
    with pytest.raises(CheckpointError, match=re.escape(str(newer))):
        checkpoint.load(newer, MODEL)
    assert (MODEL["model"].weight.detach().numpy() == 7).all()
    assert checkpoint.load(tmp_path / "c" / "000001-step-1", MODEL).step == 1


def test_foreign_folders(tmp_path: Path) -> None:
    two(tmp_path / "c")
    (tmp_path / "c" / "000009-step-9").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine")
    (tmp_path / "c" / "000010-step-10").write_text("a file")
    assert [text.partition(": ")[2] for text in checkpoint.load(tmp_path / "c", MODEL).skipped] \
        == ["manifest.json is missing"]
    for text in ("", "{}", "[]", "null", "[" * 100_000, '{"format": "distgrad.checkpoint", "version": 99}',
                 '{"format": 3}', '{"a": 1, "a": 2}', "NaN", "9" * 10_000, "\x00", '{"format": "other", "version": 1}'):
        (tmp_path / "c" / "000009-step-9" / "manifest.json").write_text(text)
        found = checkpoint.load(tmp_path / "c", MODEL)
        assert found.step == 2 and "manifest.json" in found.skipped[0], text
    with pytest.raises(CheckpointError, match="version 99"):
        Manifest.from_bytes(b'{"format": "distgrad.checkpoint", "version": 99}')
    with open(tmp_path / "c" / "000009-step-9" / "manifest.json", "wb") as file:
        file.truncate(1 << 40)  # it has no blocks, and is not read
    assert "1,099,511,627,776 bytes" in checkpoint.load(tmp_path / "c", MODEL).skipped[0]
    assert (tmp_path / "c" / "notes.txt").exists()


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    def body(rank: int) -> None:
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(1, MODEL if rank == 0 else {"model": nn.Linear(3, 2)})
            with pytest.raises(CheckpointError, match=f"another job writes checkpoints there .*{os.getpid()}"):
                Checkpointer(tmp_path / "c")
            assert checkpoint.load(tmp_path / "c", {"model": nn.Linear(3, 2)}).step == 1
            checkpoints.save(2, {"model": nn.Linear(3, 2)})
        with Checkpointer(tmp_path / "c") as checkpoints:
            assert checkpoints.steps() == [2, 1]

    simulate(2)(body)
    (tmp_path / "c" / "lock").unlink()
    (tmp_path / "c" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"):
        Checkpointer(tmp_path / "c")
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "c" / "lock").unlink()
    os.mkfifo(tmp_path / "c" / "lock")
    with pytest.raises(CheckpointError, match="no regular file"):
        Checkpointer(tmp_path / "c")


def test_leftovers_are_swept_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    two(folder)
    kept = [folder / ".mine", folder / "000007-step-7.part", folder / ".000003-step-3.0123456z.part"]
    for name in (".000003-step-3.01234567.part", ".000001-step-1.89abcdef.old"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    (folder / ".000004-step-4.01234567.part").symlink_to(outside)
    for path in kept:
        path.mkdir()
    with Checkpointer(folder) as checkpoints:
        assert not [name for name in os.listdir(folder) if re.match(r"\.0.*[0-9a-f]{8}\.(part|old)$", name)]
        checkpoints.save(3, MODEL)
    assert all(path.exists() for path in kept) and (outside / "precious").exists()
    assert threading.active_count() == 1


def test_what_is_known_as_damaged_does_not_count_as_kept(tmp_path: Path) -> None:
    _, newer = two(tmp_path / "c")
    flip(newer / "model.safetensors")
    with Checkpointer(tmp_path / "c", keep=2) as checkpoints:
        found = checkpoints.resume(MODEL)
        assert found is not None and found.step == 1
        checkpoints.save(2, MODEL)
        assert checkpoints.steps() == [2, 2, 1], "the one that is damaged can be looked at"
        checkpoints.save(3, MODEL)
        assert checkpoints.steps() == [3, 2], "and goes when two newer ones are there"
    assert checkpoint.load(tmp_path / "c", MODEL, step=2).skipped == ()


def test_a_folder_that_other_ranks_do_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, apart = Store.open, threading.Event()

    def blind(store: Store, name: str) -> int:
        if apart.is_set() and world().rank == 1 and name.endswith(".part"):
            raise FileNotFoundError(2, "No such file or directory", name)
        return real(store, name)

    def body(rank: int) -> None:
        with Checkpointer(tmp_path / "c") as checkpoints:
            checkpoints.save(1, {})
            apart.set()
            with pytest.raises(CheckpointError, match=r"not seen by rank 1: take a folder on a file system"):
                checkpoints.save(2, {})
            apart.clear()
            checkpoints.save(3, {})
            assert checkpoints.steps() == [3, 1]

    monkeypatch.setattr(Store, "open", blind)
    simulate(2)(body)


def test_reading_while_a_job_writes(tmp_path: Path) -> None:
    """Each read finds a whole checkpoint, although the only one there is is replaced all the time."""
    with Checkpointer(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(0, {"model": nn.Linear(3, 2)})
        done = threading.Event()
        steps: list[int] = []

        def read() -> None:
            while not done.is_set():
                found = checkpoint.load(tmp_path / "c", {"model": nn.Linear(3, 2)}, comm=SelfCommunicator())
                steps.append(found.step)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for step in range(1, 100):
                checkpoints.save(step, {"model": nn.Linear(3, 2)})
                assert reader.is_alive(), "it raised"
        finally:
            done.set()
            reader.join()
    assert steps == sorted(steps) and len(set(steps)) > 3
