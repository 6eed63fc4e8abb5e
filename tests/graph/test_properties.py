"""Gradients of random programs: against finite differences, and against torch where it is installed.

A program that fails is printed as the Python function that it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

import distgrad
from distgrad.autograd import grad

from .programs import Program, compiled

torch: Any = None
if importlib.util.find_spec("torch") is not None:
    import torch

PROGRAMS = st.binary(min_size=6, max_size=36)
ORDINARY = settings(max_examples=2_000, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))
LONG = settings(ORDINARY, max_examples=50_000, derandomize=False)
EPS = 1e-6
# What torch refuses and distgrad does: use outputs of unbind after their base was written to, write to a tensor what
# overlaps with it in memory, and (in `_same`) write to the result of an operation in place, as tanh_, that keeps it.
TORCH_ONLY = ("returns multiple views", "refer to a single memory location")

Run = Callable[..., list[Any]]


def values(shapes: list[tuple[int, ...]], seed: int = 0) -> list[np.ndarray]:
    """Leaves' values, different at every place, of moderate size."""
    stream = np.random.default_rng(seed)
    return [stream.uniform(0.2, 1.2, shape) * stream.choice([-1.0, 1.0], shape) for shape in shapes]


def loss_of(registers: list[Any]) -> Any:
    """A number that depends on every register in its own way."""
    total = None
    for i, r in enumerate(registers):
        part = (r * r).sum() * (0.3 + 0.1 * i)
        total = part if total is None else total + part
    return total


def leaves_of(lib: Any, arrays: list[np.ndarray]) -> list[Any]:
    return [lib.tensor(a, dtype=lib.float64, requires_grad=True) for a in arrays]


def gradients(lib: Any, run: Run, arrays: list[np.ndarray], directions: list[np.ndarray]) -> Any:
    """(loss, gradients, gradients of their product with `directions`); None where a needed value was overwritten."""
    leaves = leaves_of(lib, arrays)
    loss = loss_of(run(lib, *leaves))
    try:
        first = lib.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        product = sum((g * lib.tensor(d, dtype=lib.float64)).sum() for g, d in zip(first, directions))
        second = lib.autograd.grad(product, leaves, materialize_grads=True) if product.requires_grad else \
            [lib.zeros_like(x) for x in leaves]
    except RuntimeError as error:
        assert "version" in str(error), error
        return None
    return loss.item(), *([g.detach().numpy() for g in gs] for gs in (first, second))


def check(data: bytes) -> None:
    program = Program(data)
    source = program.source
    note(source)
    run = compiled(source)
    arrays = values(program.leaves)
    directions = values(program.leaves, seed=1)
    found = gradients(distgrad, run, arrays, directions)
    if torch is not None:
        try:
            _same(found, gradients(torch, run, arrays, directions))
        except RuntimeError as error:
            assert any(text in str(error) for text in TORCH_ONLY), error
    event("differentiated" if found else "a value that backward needs was overwritten")
    if found is not None:
        _against_differences(run, arrays, directions, found, twice=data[-1] % 4 == 0)


def _same(ours: Any, theirs: Any) -> None:
    assert ours is not None or theirs is None, "refused by distgrad only"
    if theirs is not None:
        for a, b in zip(ours[1] + ours[2], theirs[1] + theirs[2]):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(b).max(initial=0)))


def _against_differences(run: Run, arrays: list[np.ndarray], directions: list[np.ndarray], found: Any,
                         twice: bool) -> None:
    """Central differences of the loss along a direction, and of the gradient for the second derivative."""
    def moved(step: float) -> list[np.ndarray]:
        return [a + step * d for a, d in zip(arrays, directions)]

    def loss_at(step: float) -> float:
        with distgrad.no_grad():
            number: float = loss_of(run(distgrad, *[distgrad.tensor(a) for a in moved(step)])).item()
        return number

    def slope(gs: list[np.ndarray]) -> float:
        return float(sum((g * d).sum() for g, d in zip(gs, directions)))

    def slope_at(step: float) -> float:
        leaves = leaves_of(distgrad, moved(step))
        return slope([g.numpy() for g in grad(loss_of(run(distgrad, *leaves)), leaves, materialize_grads=True)])

    plus, minus = loss_at(EPS), loss_at(-EPS)
    scale = max(abs(plus), 1.0) + sum(np.abs(g).sum() for g in found[1])
    assert slope(found[1]) == pytest.approx((plus - minus) / (2 * EPS), abs=1e-7 * scale, rel=1e-6), "first derivative"
    if torch is None or twice:  # torch has compared them all; differences of gradients take long
        ahead, behind = slope_at(1e-5), slope_at(-1e-5)
        scale += sum(np.abs(g).sum() for g in found[2])
        assert slope(found[2]) == pytest.approx((ahead - behind) / 2e-5, abs=1e-6 * scale, rel=1e-5), \
            "second derivative"


@ORDINARY
@given(PROGRAMS)
def test_random_programs(data: bytes) -> None:
    check(data)


@pytest.mark.long
@pytest.mark.timeout(3600)
@LONG
@given(PROGRAMS)
def test_many_random_programs(data: bytes) -> None:
    check(data)


def test_most_programs_are_differentiated_and_write_in_place() -> None:
    """The search would be vacuous if its programs did little, or were mostly refused."""
    stream = np.random.default_rng(0)
    programs = [Program(stream.bytes(40)) for _ in range(200)]
    text = "\n".join(p.source for p in programs)
    assert text.count("_(") + text.count("[...] =") > 300
    assert sum(len(p.lines) for p in programs) > 1600
    done = [gradients(distgrad, compiled(p.source), values(p.leaves), values(p.leaves, 1)) is not None
            for p in programs]
    assert sum(done) > 60
