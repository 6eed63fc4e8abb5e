"""Clipping: the norm over single gradients and over flat memory, its bits, its edges."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.backend import of
from distgrad.flat import GRID, Group, Placement, State, plan
from distgrad.graph.base import wrap
from distgrad.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
    parameters_to_vector,
    vector_to_parameters,
)

SHAPES = [(3, 4), (5000,), (2, 70, 70), ()]


def with_gradients(dtype="float32", scale=1.0):
    rng = np.random.default_rng(0)
    made = []
    for shape in SHAPES:
        p = nn.Parameter(dg.zeros(*shape, dtype=dtype))
        p.grad = dg.tensor(np.asarray(rng.standard_normal(shape) * scale, dtype))
        made.append(p)
    return made


def in_flat_memory(parameters, ranks=1, rank=0, gather=None):
    """The same gradients in one group."""
    layout = plan([(str(i), p.array) for i, p in enumerate(parameters)], 1 << 20)
    flat = of(parameters[0].array).xp.zeros(layout.size, layout.dtype)
    group = Group(layout, flat, rank, ranks, **({"gather": gather} if gather else {}))
    by_name = {slot.name: slot for slot in layout.slots}
    for i, p in enumerate(parameters):
        slot = by_name[str(i)]
        value, p.grad = p.grad, None
        p.placement = Placement(group, slot, wrap, weakref.ref(p))
        if value is not None:
            p.grad = value
    group.state = State.REDUCED
    return group


def vector(parameters):
    return np.concatenate([p.grad.array.reshape(-1) for p in parameters if p.grad is not None]).astype(np.float64)


@pytest.mark.parametrize("p", [2.0, 1.0, 3.5, math.inf, 0.0])
@pytest.mark.parametrize("flat", [False, True])
def test_the_norm(p, flat) -> None:
    parameters = with_gradients()
    if flat:
        in_flat_memory(parameters)
    expected = np.linalg.norm(vector(parameters), p)
    before = vector(parameters)
    norm = clip_grad_norm_(parameters, 0.5, norm_type=p)
    assert norm.shape == () and norm.dtype == dg.float32 and not norm.requires_grad
    assert norm.item() == pytest.approx(expected, rel=1e-7)
    assert np.allclose(vector(parameters), before * np.float32(0.5 / (norm.item() + 1e-6)), rtol=1e-6)


def test_a_small_norm_changes_no_bit_but_counts_as_a_change() -> None:
    parameters = with_gradients()
    before = vector(parameters)
    versions = [p.grad._version for p in parameters]
    clip_grad_norm_(parameters, 1e9)
    assert (vector(parameters) == before).all()
    assert [p.grad._version for p in parameters] == [v + 1 for v in versions]


def test_single_parameters_generators_and_none() -> None:
    parameters = with_gradients()
    parameters[1].grad = None
    assert clip_grad_norm_(parameters[0], 1.0).item() == pytest.approx(np.linalg.norm(with_gradients()[0].grad.array))
    norm = clip_grad_norm_((p for p in parameters), 1.0)
    assert clip_grad_norm_([*parameters, parameters[0]], 1.0).item() == pytest.approx(1.0, rel=1e-4)  # once each
    assert norm.item() > 1
    nothing = clip_grad_norm_([nn.Parameter(dg.ones(2))], 1.0)
    assert nothing.item() == 0.0 and clip_grad_norm_([], 1.0).item() == 0.0 and get_total_norm([]).item() == 0.0


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("flat", [False, True])
def test_nan_and_inf(flat) -> None:
    parameters = with_gradients()
    parameters[0].grad.array[0, 0] = math.inf
    if flat:
        in_flat_memory(parameters)
    with pytest.raises(RuntimeError, match="inf"):
        clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert parameters[2].grad.array.any()
    assert clip_grad_norm_(parameters, 1.0).item() == math.inf
    assert not parameters[2].grad.array.any() and math.isnan(parameters[0].grad.array[0, 0])
    assert math.isnan(clip_grad_norm_(parameters, 1.0).item())
    assert all(np.isnan(p.grad.array).all() for p in parameters)
    for p, fresh in zip(parameters, with_gradients(), strict=True):
        p.grad = fresh.grad
    assert clip_grad_norm_(parameters, 1.0).item() == pytest.approx(np.linalg.norm(vector(with_gradients())))


def test_accuracy_and_range_in_float32() -> None:
    big = nn.Parameter(dg.zeros(100_000))
    big.grad = dg.full((100_000,), 1e30)
    assert clip_grad_norm_([big], 1.0).item() == pytest.approx(1e30 * math.sqrt(1e5), rel=1e-7)
    half = nn.Parameter(dg.zeros(100_000, dtype=dg.float16))
    half.grad = dg.full((100_000,), 300.0, dtype=dg.float16)
    norm = clip_grad_norm_([half], 1.0)
    assert norm.dtype == dg.float32 and norm.item() == pytest.approx(300 * math.sqrt(1e5))
    assert half.grad.dtype == dg.float16
    wide = with_gradients("float64")
    assert clip_grad_norm_([*wide, *with_gradients()], 1.0).dtype == dg.float64


def test_complex_gradients() -> None:
    p = nn.Parameter(dg.tensor([0j, 0j]))
    p.grad = dg.tensor([3 + 4j, 0j])
    norm = clip_grad_norm_([p], 1.0)
    assert norm.item() == 5.0 and norm.dtype == dg.float32 and abs(p.grad.tolist()[0] - (0.6 + 0.8j)) < 1e-6


def test_a_part_of_a_group() -> None:
    parameters = with_gradients()
    group = in_flat_memory(parameters)
    rest = vector(parameters[2:])
    expected = np.linalg.norm(vector(parameters[:2]))
    outside = with_gradients()[:1]
    parameters[0].grad.array[0, 0] *= 1  # an edit in place is seen
    norm = clip_grad_norm_([*parameters[:2], *outside], 1e-3)
    assert norm.item() == pytest.approx(math.hypot(expected, np.linalg.norm(with_gradients()[0].grad.array)), rel=1e-6)
    assert (vector(parameters[2:]) == rest).all() and np.linalg.norm(vector(parameters[:2])) < 1e-3
    parameters[3].grad = None
    everything = np.linalg.norm(vector(parameters))
    assert clip_grad_norm_(parameters, 1.0).item() == pytest.approx(everything, rel=1e-6) and group.live == 3


def test_gradients_beside_their_slot_count_where_they_are() -> None:
    parameters = with_gradients()
    in_flat_memory(parameters)
    parameters[0]._grad = dg.full((3, 4), 2.0)  # as create_graph leaves it
    expected = np.linalg.norm(vector(parameters))
    assert clip_grad_norm_(parameters, 1.0).item() == pytest.approx(expected, rel=1e-6)
    assert np.linalg.norm(vector(parameters)) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("p", [2.0, 3.0, math.inf])
def test_ranks_do_not_change_a_bit(ranks, p) -> None:
    alone = with_gradients()
    in_flat_memory(alone)
    expected = clip_grad_norm_(alone, 0.7, p)
    parts: dict[int, np.ndarray] = {}
    for turn in range(2):  # first every rank gives its part, then every rank gets all
        for rank in range(ranks):
            parameters = with_gradients()

            def gather(part, counts, rank=rank, turn=turn):
                assert part.size == counts[rank]
                parts[rank] = part
                return of(part).xp.concatenate([parts[r] for r in range(ranks)]) if turn else part

            in_flat_memory(parameters, ranks, rank, gather)
            norm = clip_grad_norm_(parameters, 0.7, p)
            if turn:
                assert norm.numpy().tobytes() == expected.numpy().tobytes()
                assert vector(parameters).tobytes() == vector(alone).tobytes()


def test_unreduced_gradients_are_refused() -> None:
    parameters = with_gradients()
    group = in_flat_memory(parameters, ranks=2)
    group.state = State.LOCAL
    with pytest.raises(RuntimeError, match="no_sync"):
        clip_grad_norm_(parameters, 1.0)
    in_flat_memory(alone := with_gradients()).state = State.LOCAL
    clip_grad_norm_(alone, 1.0)


def test_norms_apart_from_clipping() -> None:
    parameters = with_gradients()
    norm = get_total_norm([p.grad for p in parameters])
    assert norm.item() == pytest.approx(np.linalg.norm(vector(parameters)), rel=1e-7)
    before = vector(parameters)
    clip_grads_with_norm_(parameters, 1.0, norm)
    assert np.linalg.norm(vector(parameters)) == pytest.approx(1.0, rel=1e-4) and before.any()
    with pytest.raises(ValueError):
        clip_grad_norm_(parameters, 1.0, norm_type=-1.0)
    with pytest.raises(RuntimeError, match="nan"):
        get_total_norm([dg.tensor([math.nan])], error_if_nonfinite=True)


def test_clip_by_value() -> None:
    p = nn.Parameter(dg.zeros(4))
    p.grad = dg.tensor([-3.0, 0.5, 3.0, math.nan])
    clip_grad_value_(p, 1)
    assert p.grad.tolist()[:3] == [-1.0, 0.5, 1.0] and math.isnan(p.grad[3].item()) and p.grad._version == 1


def test_blocks_stand_alone() -> None:
    x = np.random.default_rng(0).standard_normal(9 * GRID + 17).astype(np.float32)
    kernel = of(x).kernels.norm_blocks
    whole = kernel(x, 2.0, GRID)
    assert whole.dtype == np.float64 and len(whole) == 10
    assert np.array_equal(np.concatenate([kernel(x[:3 * GRID], 2.0, GRID), kernel(x[3 * GRID:], 2.0, GRID)]), whole)
    assert np.allclose(whole[0], (x[:GRID].astype(np.float64) ** 2).sum(), rtol=1e-15)
    assert kernel(x, 0.0, GRID).sum() == np.count_nonzero(x) and kernel(x, math.inf, GRID).max() == abs(x).max()
    assert len(kernel(x[:0], 2.0, GRID)) == 0
    # a sum longer than the pieces that are worked on
    assert np.allclose(kernel(np.tile(x, 4), 1.0, GRID).sum(), 4 * np.abs(x.astype(np.float64)).sum(), rtol=1e-14)


def test_vectors() -> None:
    parameters = with_gradients()
    flat = parameters_to_vector(parameters)
    assert flat.shape == (sum(p.numel() for p in parameters),) and flat.requires_grad
    vector_to_parameters(dg.arange(flat.numel()).float(), parameters)
    assert parameters[0].tolist()[1] == [4.0, 5.0, 6.0, 7.0] and parameters[3].item() == flat.numel() - 1
    with pytest.raises(ValueError):
        vector_to_parameters(dg.ones(3), parameters)
    with pytest.raises(TypeError):
        vector_to_parameters([1.0], parameters)
