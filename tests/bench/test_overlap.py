"""`bench overlap`: with and without exchange are measured, and the share that is exposed follows from them."""

from __future__ import annotations

import re

import pytest

from distgrad.bench import overlap
from distgrad.cli import main
from distgrad.distributed import mean_hook, simulate, world
from tests.bench.output import on_real_ranks

NAMES = ["no exchange", "overlap", "no overlap", "exchange alone", "forward"]


@pytest.mark.parametrize("megabytes", [1, 16, 100])
def test_the_synthetic_model_is_as_large_as_asked(megabytes: int) -> None:
    workload = overlap.synthetic(megabytes, 4)
    layers, *_, width = map(int, re.findall(r"\d+", workload.text.partition(",")[0]))
    assert layers * 4 * width * width == pytest.approx(megabytes * 2**20, rel=0.01)


def test_exposed_is_what_the_exchange_adds() -> None:
    hook = ("mean", mean_hook)
    one, two = simulate(2)(lambda rank: overlap.run(world(), megabytes=0.1, transport="mpi", hook=hook, rounds=2))
    assert one.samples == two.samples and one.exposed == two.exposed and one.ranks == 2
    assert [sample.name for sample in one.samples] == [*NAMES, "overlap, mean", "exchange alone, mean"]
    took = {sample.name: sample.median for sample in one.samples}
    assert one.exposed["no overlap"] == (took["no overlap"] - took["no exchange"]) / took["exchange alone"]
    assert one.exposed["overlap, mean"] == (took["overlap, mean"] - took["no exchange"]) / took["exchange alone, mean"]
    assert one.ratio == (took["no exchange"] - took["forward"]) / took["exchange alone"]
    assert one.transports == {"overlap": "mpi", "no overlap": "mpi", "overlap, mean": "mpi"}


def test_a_workload_takes_the_place_of_the_synthetic_model() -> None:
    one, _ = simulate(2)(lambda rank: overlap.run(world(), "mlp_tiny", rounds=2))
    assert one.workload.name == "mlp_tiny" and one.parameters == 26_506
    assert [sample.name for sample in one.samples] == NAMES
    assert set(one.transports.values()) == {"shared"}


@pytest.mark.slow
def test_overlap_starts_its_own_ranks() -> None:
    lines = on_real_ranks("overlap", "--megabytes", "0.5", "--ratio", "2", "--transport", "mpi", "--rounds", "2")
    assert [line["name"] for line in lines] == NAMES
    assert all(line["ranks"] == 2 and line["median"] > 0 and line["ratio"] > 0 for line in lines)
    assert all(set(line["exposed"]) == {"overlap", "no overlap"} for line in lines)


@pytest.mark.parametrize(("words", "said"), [
    (["--hook", "nope"], "nope_compress_hook"), (["--hook", "bf16", "--transport", "shared"], "--hook"),
    (["--transport", "nccl"], "--transport nccl"), (["--hook", "bf16", "--transport", "nccl"], "--hook"),
    (["--megabytes", "0"], "--megabytes 0"), (["--ratio", "nan"], "--ratio nan"), (["-n", "1"], "-n 1"),
    (["--workload", "mlp", "--ratio", "2"], "--ratio"), (["--workload", "nope"], "--workload nope"),
])
def test_wrong_words_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "overlap", *words]) == 2
    assert said in capsys.readouterr().err
