"""`bench step`: every part is there and adds up, all ranks tell the same, and the files hold what was printed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from distgrad.bench import step
from distgrad.bench.record import read, recorded
from distgrad.bench.trainer import COLUMNS, PARTS, Trainer
from distgrad.bench.workloads import OURS, WORKLOADS
from distgrad.cli import main
from distgrad.distributed import simulate, world
from distgrad.optim import SGD
from tests.bench.output import json_lines, on_real_ranks

TOGETHER = [part for part in PARTS if part != "host"]  # the host's part is told of devices
ALONE = [part for part in TOGETHER if part != "waiting"]


def test_the_parts_of_a_step_are_all_of_it() -> None:
    workload = WORKLOADS["mlp_tiny"]
    model = workload.build(OURS)
    before = [p.detach().clone() for p in model.parameters()]
    trainer = Trainer("one", OURS, model, SGD(model.parameters(), lr=0.1), [workload.batch(np.random.default_rng(0))])
    for _ in range(3):
        trainer.step()
    notes = dict(zip(COLUMNS, np.array(trainer.notes).T, strict=True))
    parts = sum(notes[part] for part in ("forward", "backward", "clip", "optimizer"))
    np.testing.assert_allclose(notes["total"], parts, rtol=1e-9)
    assert np.isnan(notes["waiting"]).all()
    assert (notes["norm"] > 0).all() and notes["loss"][2] < notes["loss"][0]
    assert all((p != q).any() for p, q in zip(before, model.parameters(), strict=True))


def test_one_rank_waits_for_nobody() -> None:
    race, = step.run(world(), ["mlp_tiny"], rounds=2)
    assert list(race.parts) == ALONE
    assert all([s.name for s in samples] == ["distgrad"] and samples[0].median > 0 for samples in race.parts.values())
    assert len(race.losses["distgrad"]) > race.rounds == 2 and race.parameters == 26_506


def test_ranks_tell_the_same_and_modes_learn_the_same() -> None:
    (one,), (two,) = simulate(2)(lambda rank: list(step.run(world(), ["mlp_tiny"], rounds=3, modes=step.MODES)))
    assert one.parts == two.parts and one.losses == two.losses and one.ranks == 2
    assert list(one.parts) == TOGETHER
    assert one.losses["distgrad"] == one.losses["distgrad sharded"]
    assert one.differences == {"distgrad": 0, "distgrad sharded": 0}
    waiting, backward = one.parts["waiting"], one.parts["backward"]
    assert all(0 < w.median < b.median for w, b in zip(waiting, backward, strict=True))


def test_what_counts_is_the_slowest_rank_of_each_step() -> None:
    each = step._LEAD + 1
    timed = slice(step._WARMUP + step._LEAD, None, each)
    notes = np.full((2, 2, step._WARMUP + 3 * each, len(COLUMNS)), 99.0)  # (rank, contestant, step, column)
    notes[:, :, timed] = 0
    column = {name: notes[..., i] for i, name in enumerate(COLUMNS)}
    column["total"][:, 0, timed] = [[10, 30, 12], [20, 20, 11]]
    column["clip"][:, 0, timed] = [[1, 3, 5], [2, 4, 6]]
    column["waiting"][:, 1] = np.nan
    column["faults"][1, 0, timed] = [7, 9, 8]
    column["norm"][:, 0, timed] = [0.5, 1.5, 2.5]
    column["loss"][...] = 2.0
    column["loss"][1, 1, 4] = 1.5
    race = step._judged(WORKLOADS["mlp"], ["ours", "theirs"], notes, 5, {}, {})
    assert [s.name for s in race.parts["waiting"]] == ["ours"]
    assert race.parts["total"][0].median == 20  # of 20, 30, 12
    assert race.parts["clip"][0].median == 3  # of 2, 3, 5: the clips of those ranks
    assert race.faults == {"ours": 8, "theirs": 0} and race.clipped == {"ours": 2, "theirs": 0}
    assert race.differences == {"ours": 0, "theirs": 0.25} and race.rounds == 3


def test_the_file_and_the_picture_hold_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    kept, picture = tmp_path / "lines", tmp_path / "steps.png"
    kept.write_text('{"earlier": 1}\n')
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    words = ["bench", "step", "--workload", "mlp_tiny", "--rounds", "2", "--ranks", "1", "--mode", "replicated,sharded"]
    assert main([*words, "--jsonl", str(kept), "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    lines = json_lines(out)
    assert [line["part"] for line in lines] == [part for part in ALONE for _ in range(2)]
    assert [line["name"] for line in lines] == ["distgrad", "distgrad sharded"] * len(ALONE)
    assert all(line["workload"] == "mlp_tiny" and line["ranks"] == 1 and line["rounds"] == 2 for line in lines)
    assert read(str(kept)) == [{"earlier": 1}, *lines]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert all(word in out for word in ("numpy:", "kernels:", "cpus:", "page faults", "losses:", "clipped:"))
    assert cpus is None or os.sched_getaffinity(0) == cpus


def test_only_json_lines_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "lines"
    with recorded(str(kept)):
        print("a table")
        print('{"a":', "1}")
        print('  {"indented": 2}')
    with recorded(None):
        print('{"b": 2}')
    assert read(str(kept)) == [{"a": 1}]
    assert capsys.readouterr().out == 'a table\n{"a": 1}\n  {"indented": 2}\n{"b": 2}\n'


@pytest.mark.slow
def test_steps_on_one_rank_then_on_two(tmp_path: Path) -> None:
    kept = tmp_path / "lines"
    lines = on_real_ranks("step", "--workload", "mlp_tiny,cnn", "--rounds", "2", "--ranks", "1,2", "--jsonl", str(kept))
    found = [(line["ranks"], line["workload"], line["part"]) for line in lines]
    assert found == [(ranks, workload, part) for ranks in (1, 2) for workload in ("mlp_tiny", "cnn")
                     for part in (ALONE if ranks == 1 else TOGETHER)]
    assert read(str(kept)) == lines


def test_jax_is_measured_on_one_rank_only(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = simulate(2)(lambda rank: list(step.run(world(), ["mlp_tiny"], rounds=2, peers=["jax"]))[0])
    assert list(one.losses) == list(two.losses) == ["distgrad"]
    step.report(one)
    out = capsys.readouterr().out
    assert "  jax is measured on one rank only\n" in out
    assert json_lines(out)[0]["left_out"] == {"jax": "is measured on one rank only"}


@pytest.mark.slow
def test_who_does_not_compile_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")

    def compile(module: object) -> None:
        raise RuntimeError("no compiler of C++\nand much more")

    monkeypatch.setattr(torch, "compile", compile)
    race, = step.run(world(), ["mlp_tiny"], rounds=2, peers=["torch"], compile=True)
    assert list(race.losses) == ["distgrad", "torch"]
    step.report(race)
    assert "  torch compiled does not compile here, RuntimeError: no compiler of C++\n" in capsys.readouterr().out


@pytest.mark.slow
def test_torch_compiled_beside_torch_and_jax(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    words = ["--workload", "mlp_tiny", "--rounds", "2", "-n", "1", "--peer", "jax,torch", "--compile"]
    assert main(["bench", "step", *words]) == 0
    out = capsys.readouterr().out
    total = {line["name"]: line for line in json_lines(out) if line["part"] == "total"}
    left_out = total["distgrad"]["left_out"]
    assert list(total) == ["distgrad", "jax", "torch"] + ["torch compiled"] * (not left_out)
    assert list(left_out) in ([], ["torch compiled"])  # where there is no compiler of C++
    assert all(difference < 1e-4 for difference in total["jax"]["loss_difference"].values())
    assert "torch:" in out and "jax:" in out


@pytest.mark.slow
def test_torch_beside_us_on_two_ranks() -> None:
    pytest.importorskip("torch")
    lines = on_real_ranks("step", "--workload", "mlp_tiny", "--rounds", "3", "--ranks", "2", "--peer", "torch",
                          "--compile", "--mode", "sharded,replicated")
    total = [line for line in lines if line["part"] == "total"]
    names = ["distgrad sharded", "distgrad", "torch", "torch compiled"]
    assert [line["name"] for line in total] == [name for name in names if name not in total[0]["left_out"]]
    differences = total[0]["loss_difference"]
    assert differences["distgrad"] == 0 and 0 < max(differences.values()) < 1e-4
    assert [line["name"] for line in lines if line["part"] == "waiting"] == ["distgrad sharded", "distgrad"]


@pytest.mark.parametrize(("words", "said"), [
    (["--workload", "mlp,nope"], "--workload nope"), (["--mode", "nope"], "--mode nope"), (["-n", "1,x"], "-n 1,x"),
    (["-n", "0"], "-n 0"), (["--rounds", "0"], "--rounds"), (["--plot", "nowhere/steps.png"], "--plot nowhere"),
    (["--jsonl", "nowhere/lines"], "nowhere/lines"), (["--peer", "numpy"], "--peer numpy"),
    (["--compile"], "--compile"),
])
def test_wrong_words_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "--workload", "mlp_tiny", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("words", "module"), [
    (["--plot", "steps.png"], "matplotlib"), (["--peer", "torch"], "torch"), (["--peer", "jax"], "--peer jax"),
])
def test_what_is_not_installed_is_named(words: list[str], module: str, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "step", *words]) == 2
    assert module in capsys.readouterr().err
