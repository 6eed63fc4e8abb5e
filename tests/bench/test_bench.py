"""The benchmarks run and report; how fast anything is, no test says."""

from __future__ import annotations

import json

import pytest

from distgrad.bench.clock import interleaved
from distgrad.cli import main


def test_contestants_take_turns() -> None:
    order: list[str] = []
    samples = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert [s.name for s in samples] == ["a", "b"] and all(s.low <= s.median <= s.high for s in samples)


def test_modes_reports_each_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "modes", "--rounds", "3", "--length", "10"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["name"] for line in lines] == ["recording", "no_grad", "inference_mode"]
    assert all(line["median"] > 0 for line in lines)


def test_a_wrong_number_of_rounds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "modes", "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err
