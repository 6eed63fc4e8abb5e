"""`bench loader`: passes over each source with each number of workers, and the share of them that is waiting."""

from __future__ import annotations

import pytest

from distgrad.bench import loader
from distgrad.cli import main
from distgrad.distributed import simulate, world
from tests.bench.output import json_lines, on_real_ranks

NAMES = ["tensors, no workers", "tensors, 2 x thread", "npy, no workers", "npy, 2 x thread"]


def test_waiting_is_a_part_of_the_step() -> None:
    one, two = simulate(2)(lambda rank: loader.run(world(), length=3, rounds=2))
    assert one == two and one.ranks == 2 and list(one.shares) == NAMES
    for step, waiting in zip(one.steps, one.waiting, strict=True):
        assert step.rounds == 2 and 0 < waiting.median < step.median
    assert all(0 < share < 1 for share in one.shares.values())


def test_one_rank_reports(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--length", "2", "--rounds", "1", "--workers", "0", "--source", "tensors"]
    assert main(["bench", "loader", "-n", "1", *words]) == 0
    out = capsys.readouterr().out
    assert [(line["name"], line["part"]) for line in json_lines(out)] == [(NAMES[0], "step"), (NAMES[0], "waiting")]
    assert "waiting, tensors, no workers: " in out


@pytest.mark.slow
def test_loader_starts_its_own_ranks() -> None:
    lines = on_real_ranks("loader", "--length", "3", "--rounds", "2", "--workers", "1", "--worker", "process")
    assert [line["name"] for line in lines] == ["tensors, 1 x process", "npy, 1 x process"] * 2
    assert all(line["ranks"] == 2 and line["median"] > 0 for line in lines)


@pytest.mark.parametrize(("words", "said"), [
    (["--workers", "-1"], "--workers -1"), (["--workers", "x"], "--workers x"), (["--source", "nope"], "--source nope"),
    (["--length", "0"], "--length"),
])
def test_wrong_words_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "loader", *words]) == 2
    assert said in capsys.readouterr().err
