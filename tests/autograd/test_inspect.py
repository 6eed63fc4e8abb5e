"""explain and to_dot: what a graph holds, and its picture."""

from __future__ import annotations

import re
from typing import Any

import pytest

import distgrad as dg
from distgrad import nn
from distgrad.autograd.graph import explain, save_on_cpu, to_dot
from distgrad.utils.checkpoint import checkpoint

ROW = 1000 * 4  # bytes of one array of these tests


def leaf() -> dg.Tensor:
    return dg.ones(1000, requires_grad=True)


def test_memory_counts_once_and_leaves_apart() -> None:
    x = leaf()
    y = x.exp()
    held = explain((y * y * x).sum())  # y twice, y * y, and the leaf
    assert (held.total, held.leaves, held.nodes) == (2 * ROW, ROW, 4)
    assert {row.where: row.bytes for row in held.rows} == {"ExpBackward0": ROW, "MulBackward0": ROW}
    assert sum(row.arrays for row in held.rows) == 2


def test_views_count_as_what_they_keep_alive() -> None:
    base = dg.zeros(10, 1000).requires_grad_() * 1
    assert explain(base[0].exp().sum() + (base[1] * base[2]).sum()).total == 11 * ROW
    table = dg.zeros(10, 1000, requires_grad=True)
    held = explain((table[1] * table[2]).sum())
    assert (held.total, held.leaves) == (0, 2 * ROW)


def test_constants_and_attributes_count() -> None:
    x = leaf()
    assert explain(dg.nn.functional.dropout(x, 0.5).sum()).total == 1000  # a mask of booleans
    x = dg.ones(3, requires_grad=True)
    assert explain(x.sum()).total == 0


def test_lines_in_anomaly_mode() -> None:
    x = leaf()
    with dg.autograd.detect_anomaly():
        y = x.exp().tanh()  # two arrays
        loss = (y * y).sum()
    held = explain(loss)
    assert [row.bytes for row in held.rows] == [2 * ROW]
    row = held.rows[0]
    assert re.fullmatch(r"test_inspect\.py:\d+ in test_lines_in_anomaly_mode", row.where)
    assert row.source.startswith("y = x.exp().tanh()")
    assert row.operations == {"ExpBackward0": 1, "TanhBackward0": 1}
    text = str(held)
    assert "7.8 KiB" in text and row.where in text and "ExpBackward0, TanhBackward0" in text


def test_rows_are_sorted_and_freed_values_do_not_count() -> None:
    x = leaf()
    loss = (x.exp().reshape(10, 100).sin().sum(0).tanh()).sum()
    held = explain(loss)
    assert [row.bytes for row in held.rows] == sorted((row.bytes for row in held.rows), reverse=True)
    assert str(held).splitlines()[0].startswith("4.3 KiB saved for backward by 6 operations")
    loss.backward()
    assert explain(loss).total == 0


def test_packed_values() -> None:
    with save_on_cpu():
        assert explain(leaf().exp().sum()).total == ROW
    x = leaf() * 2
    y = x.exp().sin().tanh()
    assert explain(y.sum()).total == 2 * ROW  # what exp made is what sin took
    assert explain(checkpoint(lambda x: x.exp().sin().tanh(), x).sum()).total == ROW  # the argument


def test_the_picture() -> None:
    w, x = dg.ones(3, 2, requires_grad=True), dg.ones(4, 3)
    loss = dg.tanh(x @ w).sum()
    text = to_dot(loss, {"weight": w})
    assert text.startswith("digraph {") and text.rstrip().endswith("}")
    assert r'l0 [label="weight\n(3, 2) float32", fillcolor=lightblue];' in text
    assert r'n1 [label="TanhBackward0\n(4, 2)"];' in text
    for arrow in ("l0 -> n0;", "n0 -> n1;", "n1 -> n2;", "n2 -> out0;"):
        assert arrow in text
    assert to_dot(dg.tanh(x @ w).sum(), [("weight", w)]) == text


def test_several_outputs_and_leaves() -> None:
    x = dg.ones(4, requires_grad=True)
    a, b = x.split(2)
    text = to_dot([a * b, x])
    assert 'n0 -> n1 [label="0"];' in text and 'n0 -> n1 [label="1"];' in text
    assert "(2), (2)" in text and "l0 -> out1;" in text
    assert to_dot(dg.ones(1, requires_grad=True)).count("->") == 1


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", 'all\\"\n'])
def test_names_are_escaped(name: str) -> None:
    x = dg.ones(2, requires_grad=True)
    line = next(line for line in to_dot(x.sum(), {name: x}).splitlines() if line.startswith("  l0 ["))
    (quoted,) = re.findall(r'label=("(?:[^"\\]|\\.)*")', line)
    plain = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], quoted[1:-1])
    assert plain == f"{name}\n(2) float32"


def test_modules_and_long_chains() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    text = to_dot(model(dg.ones(2, 3)).sum(), model.named_parameters())
    for name, _ in model.named_parameters():
        assert f'"{name}\\n' in text
    x: Any = dg.ones(1, requires_grad=True)
    for _ in range(3000):
        x = x + 1
    assert explain(x).nodes == 3000 and to_dot(x).count("->") == 3001


def test_without_a_graph() -> None:
    for look in (explain, to_dot):
        with pytest.raises(RuntimeError, match="does not require grad"):
            look(dg.ones(2))
