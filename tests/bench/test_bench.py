"""The benchmarks run and report; how fast anything is, no test says."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from distgrad.bench import allreduce, update
from distgrad.bench.clock import interleaved
from distgrad.bench.ranks import Gradients
from distgrad.cli import main
from distgrad.distributed import simulate, world
from tests.bench.output import json_lines, on_real_ranks

UPDATES = ["sharded", "sharded, eight tensors", "replicated", "replicated, eight tensors"]


def test_contestants_take_turns() -> None:
    order: list[str] = []
    samples = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert [s.name for s in samples] == ["a", "b"] and all(s.low <= s.median <= s.high for s in samples)


def test_modes_reports_each_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "modes", "--rounds", "3", "--length", "10"]) == 0
    lines = json_lines(capsys.readouterr().out)
    assert [line["name"] for line in lines] == ["recording", "no_grad", "inference_mode"]
    assert all(line["median"] > 0 for line in lines)


def test_a_wrong_number_of_rounds_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "modes", "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err


def test_gradients_without_a_backward_are_reduced_as_any_others() -> None:
    def body(rank: int) -> None:
        model = Gradients([5000, 3], world())
        model.reduce()
        for p in model.parameters:
            np.testing.assert_allclose(p.grad.numpy(), 0.015, rtol=1e-6)
        model.exchange()
        np.testing.assert_allclose(model.parameters[0].grad.numpy(), 0.015, rtol=1e-6)
        model.close()

    simulate(2)(body)


def test_op_reports_each_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "op", "--rounds", "2"]) == 0
    lines = json_lines(capsys.readouterr().out)
    assert len(lines) == 10 and all(line["median"] > 0 for line in lines)
    assert {line["name"] for line in lines} == {"forward", "forward and backward"}


@pytest.mark.parametrize(("benchmark", "names"), [
    (allreduce, ["DataParallel, shared", "sum in rank order"]), (update, UPDATES),
])
def test_benchmarks_on_ranks_measure_the_same_on_all_of_them(benchmark: ModuleType, names: list[str]) -> None:
    one, two = simulate(2)(lambda rank: benchmark.run([64, 20_000], rounds=2))
    assert one == two
    assert [size for size, _ in one] == [64, 20_000]
    assert all([s.name for s in samples] == names and all(s.median > 0 for s in samples) for _, samples in one)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "contestants"), [("allreduce", 4), ("update", len(UPDATES))])
def test_benchmarks_start_their_own_ranks(name: str, contestants: int) -> None:
    lines = on_real_ranks(name, "--sizes", "4096,100", "--rounds", "2")
    assert [line["size"] for line in lines] == [4096] * contestants + [100] * contestants  # from rank 0 alone
    assert all(line["ranks"] == 2 and line["median"] > 0 for line in lines)


@pytest.mark.parametrize(("name", "words"), [
    ("update", ["--sizes", "12,x"]), ("update", ["--sizes", "0"]), ("update", ["-n", "0"]), ("allreduce", ["-n", "1"]),
])
def test_wrong_words_are_refused(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name, *words]) == 2
    assert words[0] in capsys.readouterr().err
