"""`bench --device`: on memory that is no numpy array, and over the stand-in for cupy, timed by events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from distgrad.bench import allreduce, ceilings, loader, modes, op, overlap, step, torch_ranks, update
from distgrad.bench.place import HERE, DeviceClock, Place, take
from distgrad.bench.trainer import COLUMNS, PARTS, Trainer
from distgrad.bench.workloads import OURS, WORKLOADS
from distgrad.cli import main
from distgrad.config import Config
from distgrad.distributed import simulate, world
from distgrad.optim import SGD
from tests.bench.gpus import stand_in
from tests.bench.output import json_lines

ALL = ["replicated", "sharded"]
NAMES = ["distgrad", "distgrad sharded"]


class Queue:
    """A library's `cuda`, whose events are reached only when it is synchronized; it counts how often that is."""

    def __init__(self) -> None:
        self.synchronized = 0
        queue = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing

            def record(self) -> None:
                self.when, self.round = time.perf_counter(), queue.synchronized

            def elapsed_time(self, end: Any) -> float:
                if queue.synchronized in (self.round, end.round):
                    raise RuntimeError("both events must have been reached")
                return (end.when - self.when) * 1e3

        self.Event = Event

    def synchronize(self) -> None:
        self.synchronized += 1


@pytest.fixture
def strict() -> Place:
    return take(world(), "strict")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(ceilings, "PRODUCTS", (32, 64))
    monkeypatch.setattr(ceilings, "COPIES", (4096,))
    with stand_in() as settings:
        yield settings


def test_nothing_waits_for_the_device_between_the_parts_of_a_step() -> None:
    workload, queue = WORKLOADS["mlp_tiny"], Queue()
    model = workload.build(OURS)
    batches = [workload.batch(np.random.default_rng(0))]
    trainer = Trainer("one", OURS, model, SGD(model.parameters(), lr=0.1), batches, clock=DeviceClock(queue))
    for _ in range(3):
        trainer.step()
    assert queue.synchronized == 6, "before a step and after it"
    notes = dict(zip(COLUMNS, np.array(trainer.notes).T, strict=True))
    np.testing.assert_allclose(notes["total"], sum(notes[p] for p in ("forward", "backward", "clip", "optimizer")))
    assert (notes["host"] > 0).all() and notes["loss"][2] < notes["loss"][0]


def test_a_step_beside_what_the_device_can_do(strict: Place, capsys: pytest.CaptureFixture[str]) -> None:
    race, = step.run(world(), ["mlp_tiny"], rounds=2, modes=ALL, place=strict)
    assert list(race.parts) == [part for part in PARTS if part not in ("waiting", "host")]
    assert [sample.name for sample in race.parts["total"]] == NAMES == list(race.rates())
    assert race.ceiling is not None and race.ceiling[0] == "float32" and race.ceiling[1] > 0
    step.report(race)
    out = capsys.readouterr().out
    assert "of the device's" in out and json_lines(out)[0]["ceiling"] == list(race.ceiling)
    assert "strict" in json_lines(out)[0]["device"]


def test_losses_are_those_of_the_host(strict: Place) -> None:
    here, = step.run(world(), ["gru"], rounds=1)
    there, = step.run(world(), ["gru"], rounds=1, place=strict)
    assert here.ceiling is None
    np.testing.assert_allclose(there.losses["distgrad"], here.losses["distgrad"], rtol=1e-5)


@pytest.mark.slow
def test_torch_learns_the_same_as_a_device(strict: Place) -> None:
    pytest.importorskip("torch")
    race, = step.run(world(), ["lstm"], rounds=2, peers=["torch"], place=strict)
    assert not race.left_out and race.differences["torch"] < 1e-4


def test_batches_have_room_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = WORKLOADS["mlp_tiny"]
    one = sum(part.nbytes for part in workload.batch(np.random.default_rng(0)))
    for room, count in ((1, 2), (3 * one, 3), (1 << 30, 5)):
        monkeypatch.setattr(step, "_BATCH_BYTES", room)
        batches = step._batches(workload, np.random.default_rng(0), steps=5)
        assert len(batches) == count
        np.testing.assert_array_equal(batches[0][0], workload.batch(np.random.default_rng(0))[0])


# -- ceilings

@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_ceilings_of_memory_and_products(device: str) -> None:
    found = list(ceilings.run(take(world(), device), rounds=2, copies=[4096], products=[16, 32]))
    across = ["copy across"] if device == "strict" else []
    assert [(each.kind, each.size) for each in found] == [
        ("copy", 4096), *((kind, 4096) for kind in across), ("product", 16), ("product", 32)]
    for each in found:
        for sample in each.samples:
            assert each.rates()[sample.name] == pytest.approx(each.work[0] / (sample.median / 1e6))
    assert found[0].work[0] == 2 * 4096 / 1e9 and found[-1].work[0] == 2 * 32**3 / 1e12


def test_ceilings_are_printed_with_rates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ceilings", "--rounds", "2", "--copies", "4096", "--products", "16"]) == 0
    out = capsys.readouterr().out
    lines = json_lines(out)
    assert [line["kind"] for line in lines] == ["copy", "copy", "product"] and "GB/s" in out and "TFLOP/s" in out
    assert all(line["rate"] > 0 and "blas" in line for line in lines)


# -- the other benchmarks, on memory that numpy does not take

def test_small_operations_on_a_device(strict: Place) -> None:
    assert [sample.name for sample in modes.run(4, 2, place=strict)] == ["recording", "no_grad", "inference_mode"]
    assert [name for name, _ in op.run(2, place=strict)] == list(op.OPS)


def test_updates_and_exchanges_on_a_device() -> None:
    def body(rank: int) -> Any:
        place = take(world(), "strict")
        return (allreduce.run([64], rounds=2, place=place), update.run([64], rounds=2, place=place),
                overlap.run(world(), "mlp_tiny", rounds=2, place=place).samples)

    one, two = simulate(2)(body)
    assert one == two
    assert [sample.name for sample in one[0][0][1]] == ["DataParallel, shared", "sum in rank order"]


@pytest.mark.parametrize("place", [HERE, Place("strict")])
def test_an_update_of_one_rank(place: Place) -> None:
    (size, samples), = update.run([100], rounds=2, place=place)
    assert size == 100 and all(sample.median > 0 for sample in samples)


def test_a_loader_for_a_device(strict: Place) -> None:
    fed = loader.run(world(), ["tensors"], (0,), length=2, rounds=1, place=strict)
    assert list(fed.shares) == ["tensors, no workers"] and "device" in fed.where


# -- GPUs, over the stand-in

def test_a_step_on_a_gpu_is_timed_by_events(gpus: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "--device", "cuda", "--workload", "mlp_tiny", "--rounds", "1", "-n", "1"]) == 0
    out = capsys.readouterr().out
    lines = json_lines(out)
    assert [line["part"] for line in lines] == [part for part in PARTS if part != "waiting"]
    assert all(line["median"] > 0 for line in lines)
    total = lines[0]
    assert "Stand-in (cuda:0)" in total["device"] and "cupy 14.2.0 for CUDA 12.9" in total["device"]
    assert total["tf32"].startswith("off") and total["kept"] == {"distgrad": 5 << 20}
    assert total["ceiling"][0] == "float32" and "memory kept of the device: distgrad" in out


def test_ranks_that_share_a_gpu_learn_what_one_on_the_host_does(gpus: Any) -> None:
    def body(device: str) -> step.Race:
        race, = simulate(2)(lambda rank: list(step.run(world(), ["mlp_tiny"], 1, ALL, place=take(world(), device))))[0]
        return race

    there, here = body("cuda"), body("cpu")
    assert [sample.name for sample in there.parts["waiting"]] == NAMES == list(there.losses)
    for name in NAMES:
        np.testing.assert_allclose(there.losses[name], here.losses[name], rtol=1e-5)


def test_torch_that_sees_no_gpu_is_left_out(gpus: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("it sees one")
    assert main(["bench", "modes", "--device", "cuda", "--rounds", "1", "--length", "2", "--peer", "torch"]) == 0
    assert "sees no CUDA device" in capsys.readouterr().out
    race, = step.run(world(), ["mlp_tiny"], rounds=1, peers=["torch"], place=take(world(), "cuda"))
    assert "sees no CUDA device" in race.left_out["torch"]


def test_a_loader_for_a_gpu_comes_twice(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKLOADS, "mlp", WORKLOADS["mlp_tiny"])
    asked = []
    made = loader.DataLoader
    monkeypatch.setattr(loader, "DataLoader", lambda *args, **options: asked.append(options["pin_memory"])
                        or made(*args, **options))
    fed = loader.run(world(), ["tensors"], (0,), length=2, rounds=1, place=take(world(), "cuda"))
    assert list(fed.shares) == ["tensors, no workers", "tensors, no workers, pinned"] and asked == [False, True]


@pytest.fixture
def torch() -> Iterator[Any]:
    """torch, whose settings of TF32 are afterwards what they were."""
    torch = pytest.importorskip("torch")
    settings = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [each.allow_tf32 for each in settings]
    yield torch
    for each, value in zip(settings, before, strict=True):
        each.allow_tf32 = value


@pytest.mark.slow
@pytest.mark.parametrize("tf32", [0, 1])
def test_torch_on_the_same_gpu(tf32: int, torch: Any, gpus: Any, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    queue, chosen = Queue(), []
    for name, value in {"is_available": lambda: True, "set_device": chosen.append, "memory_reserved": lambda: 7 << 20,
                        "Event": queue.Event, "synchronize": queue.synchronize}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Place, "peers", "cpu")  # its tensors: there is no device for them
    monkeypatch.setattr(torch_ranks, "config", Config(tf32=tf32))
    race, = step.run(world(), ["mlp_tiny"], rounds=2, peers=["torch"], place=take(world(), "cuda"))
    assert not race.left_out and race.differences["torch"] < 1e-4 and chosen == ["cuda:0"]
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == bool(tf32)
    assert race.kept["torch"] == 7 << 20 and "CUDA" in race.where["torch"]
    assert all([sample.name for sample in race.parts[part]] == ["distgrad", "torch"] for part in ("total", "host"))
    step.report(race)
    assert "torch 0.01 GiB" in capsys.readouterr().out


def test_torch_is_left_out_where_its_ranks_would_share_a_device(torch: Any, gpus: Any,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = simulate(2)(lambda rank: list(step.run(world(), ["mlp_tiny"], 1, peers=["torch"],
                                                   place=take(world(), "cuda"))))
    assert all("share a device" in race.left_out["torch"] for race, in found)


@pytest.mark.parametrize(("devices", "apart"), [(1, False), (2, True)])
def test_ranks_take_devices_in_turn(gpus: Any, devices: int, apart: bool) -> None:
    gpus.devices = devices
    places = simulate(2)(lambda rank: take(world(), "cuda"))
    assert [place.device for place in places] == ["cuda:0", f"cuda:{devices - 1}"]
    assert [place.apart for place in places] == [apart] * 2
    assert ("each rank on one of its own" if apart else "shared by ranks") in places[0].where["device"]


def test_ceilings_of_a_gpu(gpus: Any) -> None:
    found = list(ceilings.run(take(world(), "cuda"), rounds=1))
    assert [each.kind for each in found] == ["copy", "copy across", "product", "product"]
    assert [sample.name for sample in found[-1].samples] == ["float32", "float16"], "the stand-in has no TF32"


@pytest.mark.parametrize(("words", "said"), [
    (["step", "--peer", "jax", "--device", "cuda"], "--peer jax"),
    (["step", "--peer", "jax", "--size", "large"], "--size small"),
    (["ceilings", "--products", "0"], "--products 0"), (["ceilings", "--copies", "3"], "--copies 3"),
])
def test_what_does_not_go_together_is_refused(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["step", "op", "modes", "update", "allreduce", "loader", "overlap", "ceilings"])
def test_without_a_gpu_the_reason_is_said_before_anything_starts(name: str, gpus: Any,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    gpus.driver = 0
    assert main(["bench", name, "--device", "cuda"]) == 2
    assert "--device cuda: device 'cuda' needs NVIDIA's driver" in capsys.readouterr().err
