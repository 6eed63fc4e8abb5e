"""`bench checkpoint`: stretches with and without a save are measured, and nothing stays on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distgrad.bench import checkpoint
from distgrad.checkpoint import Checkpointer
from distgrad.cli import main
from distgrad.distributed import simulate, world
from tests.bench.output import on_real_ranks

NAMES = ["no save", "asynchronous save", "save"]


def test_what_a_save_costs_follows_from_the_stretches(tmp_path: Path) -> None:
    costs = simulate(2)(lambda rank: checkpoint.run(
        world(), lambda folder, comm: Checkpointer(folder, comm=comm), 20_000, 2, str(tmp_path), 2))
    assert costs[0].samples == costs[1].samples and [sample.name for sample in costs[0].samples] == NAMES
    cost = costs[0]
    assert cost.parameters == pytest.approx(20_000, rel=0.1) and cost.nbytes == 12 * cost.parameters
    plain, beside, between = (sample.median for sample in cost.samples)
    assert cost.share("save") == pytest.approx(between / plain - 1)
    assert cost.share("asynchronous save") == pytest.approx(beside / plain - 1)
    assert cost.blocked > 0 and os.listdir(tmp_path) == []


@pytest.mark.slow
def test_it_starts_its_own_ranks(tmp_path: Path) -> None:
    lines = on_real_ranks("checkpoint", "--parameters", "20000", "--steps", "2", "--rounds", "2", "--folder",
                          str(tmp_path))
    assert [line["name"] for line in lines] == NAMES and all(line["ranks"] == 2 for line in lines)
    assert set(lines[0]["shares"]) == set(NAMES[1:]) and os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [["--steps", "0"], ["--parameters", "-1"], ["--folder", "nowhere/at/all"]])
def test_wrong_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "checkpoint", *words]) == 2
    assert words[0] in capsys.readouterr().err
