"""PowerSGD: exact where the rank suffices, nothing lost over the steps, the same bits on all ranks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from distgrad import simulate
from distgrad.distributed import DataParallel, world
from distgrad.distributed.hooks import PowerSGDState, bf16_compress_wrapper, powerSGD_hook
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed.hook_cases import Given, assert_alike, count_bytes, drawn, low_rank, reduced
from tests.distributed.models import parameters_of

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("nodes", "transport"), [([2, 2], "auto"), ([2, 1], "auto"), ([1, 1], "auto"), ([3], "mpi")],
                         ids=str)
@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize(("rank_of_factors", "tolerance"), [(3, 2e-3), (7, 2e-5)])
def test_a_mean_of_low_rank_is_exact(nodes: list[int], transport: str, feedback: bool, rank_of_factors: int,
                                     tolerance: float) -> None:
    """Up to rounding, which three columns at random may enlarge a hundredfold, seven hardly."""
    ranks = sum(nodes)

    def body(rank: int) -> Any:
        state = PowerSGDState(matrix_approximation_rank=rank_of_factors, start_powerSGD_iter=0,
                              use_error_feedback=feedback)
        model = DataParallel(Given((80, 3, 20), (50,)), hook=state, transport=transport, bucket_bytes=1 << 30)
        found = []
        for step in range(3):
            rest = drawn(ranks, (50,), seed=step)
            found.append(reduced(model, low_rank(ranks, 3, 80, 60, step)[rank].reshape(80, 3, 20), *rest[rank]))
        return [array for step in found for array in step]

    results = simulate(ranks, nodes)(body)
    assert_alike(results)
    for step in range(3):
        matrix, rest = results[0][2 * step:2 * step + 2]
        expected = low_rank(ranks, 3, 80, 60, step).mean(0).reshape(80, 3, 20)
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(rest, np.mean(drawn(ranks, (50,), seed=step), (0, 1)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("wrap", "options"), [
    (None, {}), (None, {"warm_start": False}), (bf16_compress_wrapper, {"matrix_approximation_rank": 3})],
    ids=["warm", "cold", "in bfloat16"])
def test_error_feedback_loses_nothing_over_the_steps(wrap: Any, options: dict[str, Any]) -> None:
    """The sum of the results stays as near to the sum of the means after many steps as after few."""
    given = drawn(4, (32, 32))
    mean = np.mean(given, (0, 1))

    def lost(feedback: bool) -> list[float]:
        def body(rank: int) -> Any:
            state = PowerSGDState(start_powerSGD_iter=0, use_error_feedback=feedback, **options)
            model = DataParallel(Given((32, 32)), hook=state if wrap is None else wrap(state))
            return [reduced(model, *given[rank])[0] for _ in range(120)]

        results = simulate(4, [2, 2])(body)
        assert_alike(results)
        sums = np.cumsum(results[0], 0)
        return [float(np.linalg.norm(sums[t - 1] - t * mean) / np.linalg.norm(mean)) for t in (1, 60, 120)]

    first, middle, last = lost(True)
    assert first > 0.5 and last < 1.3 * middle and last < 0.3 * first * 120
    if options.get("warm_start", True):  # with the same matrix again and again it always sees the same part
        assert lost(False)[2] > 0.5 * 120


def test_rows_of_cut_tensors_and_what_is_left_over() -> None:
    """Buckets of 4,096 elements cut matrices inside of rows: every element arrives, and whole rows are compressed."""
    shapes = ((100, 130), (5,), (3, 3), (130, 100))
    given = [low_rank(2, 2, 100, 130, 0), *np.random.default_rng(0).standard_normal((2, 2, 5)).astype("f4")[:1],
             np.random.default_rng(1).standard_normal((2, 3, 3)).astype("f4"), low_rank(2, 2, 130, 100, 1)]

    def body(rank: int) -> Any:
        state = PowerSGDState(matrix_approximation_rank=2, start_powerSGD_iter=0)
        model = DataParallel(Given(*shapes), hook=state, bucket_bytes=1)
        found = reduced(model, *(g[rank] for g in given))
        norm = clip_grad_norm_(model.parameters(), 1e30).item()
        plans = [(m.rows, m.cols, m.rank) for memory in state._memories.values() for m in memory.matrices]
        covered = sum(m.end - m.begin for memory in state._memories.values() for m in memory.matrices)
        left = sum(part.stop - part.start for memory in state._memories.values() for part in memory.rest)
        return found, norm, plans, covered, left

    results = simulate(2, [1, 1])(body)
    assert_alike([found for found, *_ in results])
    for mine, exact in zip(results[0][0], given, strict=True):
        np.testing.assert_allclose(mine, exact.mean(0), rtol=0, atol=1e-5 * np.abs(exact).max())
    _, norm, plans, covered, left = results[0]
    np.testing.assert_allclose(norm, np.sqrt(sum((g.astype("f8") ** 2).sum() for g in results[0][0])), rtol=1e-6)
    assert len(plans) >= 6 and all(shape[1] in (100, 130) and shape[2] == 2 for shape in plans)
    assert covered + left == sum(np.prod(shape) for shape in shapes)
    assert left < 0.2 * covered


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-3), ("float64", 1e-13), ("complex64", 2e-5)])
def test_other_dtypes_of_powersgd(dtype: str, tolerance: float) -> None:
    factor = 1 + 1j if dtype == "complex64" else 1
    given = (low_rank(4, 2, 70, 60, 5, "f8") * factor).astype(dtype)

    def body(rank: int) -> Any:
        model = DataParallel(Given((70, 60), dtype=dtype), hook=PowerSGDState(matrix_approximation_rank=6,
                                                                              start_powerSGD_iter=0))
        (model(given[rank].conj()).real if dtype == "complex64" else model(given[rank])).backward()
        return parameters_of(model, grad=True)

    results = simulate(4, [2, 2])(body)
    assert_alike(results)
    exact = low_rank(4, 2, 70, 60, 5, "f8").mean(0) * factor
    np.testing.assert_allclose(results[0][0], exact, rtol=0, atol=tolerance * np.abs(given).max())


def test_fewer_bytes_and_when_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = count_bytes(monkeypatch)
    given = drawn(2, (256, 256))

    def body(rank: int) -> list[tuple[int, np.ndarray]]:
        model = DataParallel(Given((256, 256)), hook=PowerSGDState(matrix_approximation_rank=2, start_powerSGD_iter=2))
        found = []
        for _ in range(4):
            world().barrier()
            counted.clear()
            world().barrier()
            grad, = reduced(model, *given[rank])
            world().barrier()
            found.append((sum(counted), grad))
        return found

    steps = simulate(2, [1, 1])(body)[0]
    sizes = [size for size, _ in steps]
    assert sizes[:2] == [2 * 256 * 256 * 4] * 2, "the first ones uncompressed"
    assert sizes[2:] == [2 * (256 + 256) * 2 * 4] * 2
    mean = np.mean(given, (0, 1))
    np.testing.assert_array_equal(steps[1][1], mean)
    assert np.linalg.norm(steps[2][1] - mean) > 0.1 * np.linalg.norm(mean)
    assert np.linalg.matrix_rank(steps[2][1]) == 2


def test_what_was_lost_weighs_the_same_in_a_heavier_backward() -> None:
    """A light backward after a heavy one does not get the heavy one's loss a hundredfold."""
    given = drawn(2, (64, 64))
    mean = np.mean(given, (0, 1))

    def body(rank: int, weights: list[float]) -> Any:
        model = DataParallel(Given((64, 64)), hook=PowerSGDState(start_powerSGD_iter=0))
        return [reduced(model, *given[rank], weight=weight)[0] for weight in weights]

    even = simulate(2, [1, 1])(lambda rank: body(rank, [8.0] * 4))[0]
    uneven = simulate(2, [1, 1])(lambda rank: body(rank, [4096.0, 1.0, 0.0, 512.0, 2.0]))[0]
    assert not uneven.pop(2).any(), "no rank had data"
    for mine, theirs in zip(uneven, even, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4 * np.abs(mean).max())


@pytest.mark.filterwarnings("ignore:invalid value")  # of the forward
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_with_nan_is_seen_and_leaves_the_memory_alone(bad: float) -> None:
    given = drawn(2, (64, 64))
    broken = [g.copy() for g, in given]
    broken[1][5, 7] = bad

    def body(rank: int, steps: list[Any]) -> Any:
        model = DataParallel(Given((64, 64)), hook=PowerSGDState(start_powerSGD_iter=0, matrix_approximation_rank=2))
        return [reduced(model, step[rank])[0] for step in steps]

    good = [g for g, in given]
    expected = simulate(2, [1, 1])(lambda rank: body(rank, [good, good, good]))[0]
    for found in simulate(2, [1, 1])(lambda rank: body(rank, [good, broken, good, good])):
        assert not np.isfinite(found[1]).any()
        np.testing.assert_array_equal([found[0], found[2], found[3]], expected)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinity_beside_a_matrix_leaves_the_memory_alone() -> None:
    """Such a step is not taken; what it would have added must not be missing afterwards."""
    given = drawn(2, (64, 64), (3,))
    broken = [[2 * matrix, np.full(3, np.inf, "f4")] for matrix, _ in given]

    def body(rank: int, steps: list[Any]) -> Any:
        model = DataParallel(Given((64, 64), (3,)), hook=PowerSGDState(start_powerSGD_iter=0))
        return [reduced(model, *step[rank])[0] for step in steps]

    expected = simulate(2, [1, 1])(lambda rank: body(rank, [given, given]))[0]
    for first, _, second in simulate(2, [1, 1])(lambda rank: body(rank, [given, broken, given])):
        np.testing.assert_array_equal([first, second], expected)


def test_gradients_that_vanish_and_come_back() -> None:
    given = low_rank(2, 1, 64, 64, 0)

    def body(rank: int) -> Any:
        model = DataParallel(Given((64, 64)), hook=PowerSGDState(start_powerSGD_iter=0, matrix_approximation_rank=2))
        return [reduced(model, scale * given[rank])[0] for scale in np.array([0, 1, 0, 0, 1], "f4")]

    for found in simulate(2, [1, 1])(body):
        for step, scale in zip(found, [0, 1, 0, 0, 1], strict=True):
            np.testing.assert_allclose(step, scale * given.mean(0), rtol=0, atol=1e-5 * np.abs(given).max())


def test_one_state_serves_several_models() -> None:
    given = drawn(2, (64, 64), (64, 64))

    def body(rank: int, shared: bool) -> Any:
        states = [PowerSGDState(start_powerSGD_iter=0) for _ in range(2)]
        models = [DataParallel(Given((64, 64)), hook=states[0 if shared else i]) for i in range(2)]
        return [reduced(model, g)[0] for _ in range(3) for model, g in zip(models, given[rank], strict=True)]

    apart, together = (simulate(2, [1, 1])(lambda rank, s=shared: body(rank, s))[0] for shared in (False, True))
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize(("options", "text"), [
    ({"matrix_approximation_rank": 0}, "matrix_approximation_rank"), ({"start_powerSGD_iter": -1}, "not negative"),
    ({"min_compression_rate": -2}, "not negative")])
def test_options_of_powersgd(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PowerSGDState(**options)


def test_powersgd_in_bfloat16_sends_half(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = count_bytes(monkeypatch)
    given = low_rank(2, 1, 256, 256, 0)

    def bytes_of(wrap: Any) -> tuple[int, np.ndarray]:
        def body(rank: int) -> np.ndarray:
            model = DataParallel(Given((256, 256)), hook=wrap(PowerSGDState(start_powerSGD_iter=0)))
            world().barrier()
            counted.clear()
            world().barrier()
            return reduced(model, given[rank])[0]

        found = simulate(2, [1, 1])(body)
        np.testing.assert_array_equal(found[0], found[1])
        return sum(counted), found[0]

    (full, exact), (half, rounded) = bytes_of(lambda hook: hook), bytes_of(bf16_compress_wrapper)
    assert half == full // 2
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.02 * np.abs(exact).max())
    assert (rounded != exact).any()


def test_the_function_of_the_state_is_the_hook() -> None:
    given = drawn(2, (64, 64))

    def body(rank: int, as_function: bool) -> Any:
        state = PowerSGDState(start_powerSGD_iter=0)
        model = DataParallel(Given((64, 64)), hook=partial(powerSGD_hook, state) if as_function else state)
        return model.transport, reduced(model, *given[rank])[0]

    (kind, one), (other_kind, other) = (simulate(2, [1, 1])(lambda rank, f=f: body(rank, f))[0] for f in (False, True))
    assert kind == other_kind == "lanes"
    np.testing.assert_array_equal(one, other)
