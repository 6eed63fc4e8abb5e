"""Indexing: whole keys, and index tensors along a dimension; repeated indices add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distgrad._tensor.creation import from_numpy
from distgrad.graph.backward import grad
from distgrad.ops import index as X

from .checking import check, gradient, leaf, numbers

I = np.array([0, 2, 0])
MASK = np.array([True, False, True])
GRID = np.array([[0, 1], [2, 2]])
SHAPE = (3, 4, 2)
# key: what numpy makes of it, where that differs from numpy's own result (None: the same)
BASIC = {
    "int": 1, "negative": -1, "ints": (1, 2), "all ints": (1, 2, -1), "slice": slice(1, None),
    "slices": (slice(None), slice(0, 3, 2)), "none": (None, 1), "ellipsis": (..., 0), "only ellipsis": ...,
    "mixed": (0, ..., None, slice(1)), "nothing": (), "none last": (..., None), "empty slice": slice(2, 1),
    "numpy int": np.int64(1),
}
ADVANCED: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray] | None]] = {
    "vector": (I, None), "list": ([0, 2], None), "grid": (GRID, None), "mask": (MASK, None),
    "second dim": ((slice(None), I), None), "two": ((I, np.array([3, 3, 1])), None),
    "broadcast": ((GRID[:, :1], np.array([1, 0])), None), "apart": ((I, slice(None), np.array([0, 1, 0])), None),
    "with slice": ((slice(1, 3), I), None), "with none": ((None, I), None), "ellipsis": ((..., np.array([1, 1])), None),
    "full mask": (numbers(*SHAPE) > 0, None), "mask of two": (numbers(3, 4) > 0, None),
    "mask behind": ((slice(None), np.array([True, False, True, True])), None),
    "mask and index": ((MASK, np.array([0, 3])), None), "empty": (np.zeros(0, np.int64), None),
    "empty mask": (np.zeros(3, bool), None), "range": (range(2), None), "true": (True, None), "false": (False, None),
    # Where numpy would count the int as an index tensor, it selects first here.
    "int apart": ((0, slice(None), np.array([1, 0, 1])), lambda x: x[0][:, [1, 0, 1]]),
    "int apart behind": ((I, slice(None), 1), lambda x: x[..., 1][I]),
}
KEYS = {**{f"basic {k}": v for k, v in BASIC.items()}, **{f"advanced {k}": v for k, (v, _) in ADVANCED.items()}}


@pytest.mark.parametrize("name", BASIC)
def test_basic_keys_make_views(name: str) -> None:
    x = numbers(*SHAPE)
    y = X.getitem(from_numpy(x), BASIC[name])
    np.testing.assert_array_equal(y.numpy(), x[BASIC[name]])
    assert y.array.size == 0 or np.shares_memory(y.array, x)
    assert y._view is not None


@pytest.mark.parametrize("name", ADVANCED)
@pytest.mark.parametrize("wrapped", [False, True])
def test_index_tensors_make_copies(name: str, wrapped: bool) -> None:
    key, expected = ADVANCED[name]
    x = numbers(*SHAPE)
    wanted = x[key] if expected is None else expected(x)
    if wrapped:
        parts = key if isinstance(key, tuple) else (key,)
        key = tuple(from_numpy(part) if isinstance(part, np.ndarray) else part for part in parts)
    y = X.getitem(from_numpy(x), key)
    assert y.shape == wanted.shape
    np.testing.assert_array_equal(y.numpy(), wanted)
    assert not np.shares_memory(y.array, x)


@pytest.mark.parametrize("name", KEYS)
def test_gradients_of_reading(name: str) -> None:
    check(lambda x: X.getitem(x, KEYS[name]), numbers(*SHAPE))


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_writing(name: str, accumulate: bool) -> None:
    key = KEYS[name]
    x = numbers(*SHAPE)
    part = X.getitem(x, key)
    value = numbers(*part.shape, seed=1)
    repeats = "apart" in name or name.split(" ", 1)[1] in ("vector", "grid", "second dim", "with slice", "with none",
                                                           "ellipsis", "broadcast")
    expected = x.copy()
    target = X.getitem(np.arange(x.size).reshape(x.shape), key).ravel()
    if accumulate:
        np.add.at(expected.reshape(-1), target, value.ravel())
    else:
        expected.reshape(-1)[target] = value.ravel()
    np.testing.assert_allclose(X.index_put(from_numpy(x), key, from_numpy(value), accumulate).numpy(), expected)
    if accumulate or not repeats:
        check(lambda t, v: X.index_put(t, key, v, accumulate), x, value)


def test_writing_broadcasts_and_casts() -> None:
    x = numbers(3, 4)
    assert X.index_put(from_numpy(x), 1, 5).numpy()[1].tolist() == [5.0] * 4
    check(lambda t, v: X.index_put(t, (slice(None), I[:2]), v), x, numbers(2))
    check(lambda t, v: X.index_put(t, MASK, v), x, numbers(1, 1, 4))
    check(lambda t, v: X.index_put(t, 1, v, True), x, numbers())
    y = X.index_put(from_numpy(np.zeros(3, np.float32)), 0, from_numpy(np.array(2.5)))
    assert y.dtype == np.float32 and y.numpy().tolist() == [2.5, 0, 0]


def test_writing_leaves_the_input_alone() -> None:
    x = numbers(3)
    X.index_put(from_numpy(x), I, 7.0, accumulate=True)
    np.testing.assert_array_equal(x, numbers(3))


def test_repeated_indices_add_up() -> None:
    assert gradient(lambda x: X.getitem(x, I), [1.0, 2.0, 3.0]).tolist() == [2, 0, 1]
    assert X.index_put(from_numpy(np.zeros(3)), I, 1.0, accumulate=True).numpy().tolist() == [2, 0, 1]


def test_0d_indices_select() -> None:
    x = numbers(3, 4)
    y = X.getitem(from_numpy(x), from_numpy(np.array(1)))
    assert np.shares_memory(y.array, x) and y.shape == (4,)
    assert X.getitem(from_numpy(x), (0, from_numpy(np.array(True)))).shape == (1, 4)
    assert X.getitem(from_numpy(np.array(3.0)), ...).item() == 3
    assert X.getitem(leaf(3.0), None).shape == (1,)


def test_bytes_are_a_mask() -> None:
    assert X.getitem(from_numpy(numbers(3)), np.array([1, 0, 1], np.uint8)).shape == (2,)


def test_slice_bounds_may_be_tensors() -> None:
    x = numbers(5)
    np.testing.assert_array_equal(X.getitem(from_numpy(x), slice(from_numpy(np.array(1)), 3)).numpy(), x[1:3])


WRONG_KEYS = {
    "out of range": (IndexError, 3), "in tensor": (IndexError, np.array([0, 3])), "too many": (IndexError, (0, 0, 0)),
    "two ellipses": (IndexError, (..., ...)), "float": (IndexError, 1.0), "float tensor": (IndexError, np.ones(2)),
    "string": (TypeError, "a"), "mask shape": (IndexError, np.ones(2, bool)),
    "negative step": (ValueError, slice(None, None, -1)), "step zero": (ValueError, slice(None, None, 0)),
    "not broadcasting": (IndexError, (np.array([0, 1]), np.array([0, 1, 0]))),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_wrong_keys(name: str) -> None:
    kind, key = WRONG_KEYS[name]
    with pytest.raises(kind) as caught:
        X.getitem(leaf(numbers(3, 4)), key)
    assert caught.type is kind
    with pytest.raises(kind):
        X.index_put(leaf(numbers(3, 4)), key, 0.0)


@pytest.mark.parametrize("kind", ["complex64", "complex128", "float16", "int8", "int16", "uint8", "int32", "bool"])
def test_repeated_indices_add_up_in_every_type(kind: str) -> None:
    index, source = np.array([2, 0, 2, 2]), np.array([[1, 2], [3, 4], [5, 6], [7, 120]]).astype(kind)
    if kind.startswith("complex"):
        source = source * np.array(1 - 2j, kind)
    x = np.ones((3, 2), kind)
    expected = x.copy()
    np.add.at(expected, index, source)
    for found in (X.index_put(from_numpy(x), index, from_numpy(source), accumulate=True),
                  X.index_add(from_numpy(x), 0, from_numpy(index), from_numpy(source)),
                  X.scatter_add(from_numpy(x), 0, from_numpy(np.stack([index, index], 1)), from_numpy(source))):
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found.numpy(), expected)


def test_gradients_of_complex_tensors_add_up_at_repeated_indices() -> None:
    x = leaf(numbers(3) + 1j * numbers(3, seed=1), "complex128")
    y = X.getitem(x, from_numpy(np.array([1, 1, 0])))
    (y * y.conj()).real.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), x.detach().numpy() * [2, 4, 0], rtol=1e-12)


def test_a_value_that_does_not_fit() -> None:
    for key in (0, I):
        with pytest.raises(RuntimeError, match="broadcast"):
            X.index_put(leaf(numbers(3, 4)), key, leaf(numbers(5)))


def test_an_index_changed_in_place_is_noticed() -> None:
    index = from_numpy(np.array([0, 1]))
    x = leaf(numbers(3))
    y = X.getitem(x, index)
    index.fill_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        grad([y], [x], [from_numpy(np.ones(2))])


INDEX2 = np.array([[0, 2, 2], [1, 0, 1]])
ALONG = {
    "gather 0": lambda x: X.gather(x, 0, from_numpy(INDEX2)), "gather 1": lambda x: X.gather(x, -1, from_numpy(INDEX2)),
    "index_select": lambda x: X.index_select(x, 1, from_numpy(I)),
    "index_select 0-d": lambda x: X.index_select(x, 0, from_numpy(np.array(1))),
    "take": lambda x: X.take(x, from_numpy(GRID)),
    "take_along_dim": lambda x: X.take_along_dim(x, from_numpy(np.array([[0, 2, 2, 1]])), 1),
    "take_along_dim flat": lambda x: X.take_along_dim(x, from_numpy(GRID)),
    "masked_select": lambda x: X.masked_select(x, np.array([True, False, True, True])),
    "embedding": lambda x: X.embedding(x, from_numpy(GRID)),
}
EXPECTED_ALONG = {
    "gather 0": lambda x: np.take_along_axis(x[:, :3], INDEX2, 0),
    "gather 1": lambda x: np.take_along_axis(x[:2], INDEX2, 1),
    "index_select": lambda x: x[:, I], "index_select 0-d": lambda x: x[[1]], "take": lambda x: x.ravel()[GRID],
    "take_along_dim": lambda x: x[:, [0, 2, 2, 1]], "take_along_dim flat": lambda x: x.ravel()[GRID.ravel()],
    "masked_select": lambda x: x[:, [0, 2, 3]].ravel(), "embedding": lambda x: x[GRID],
}


@pytest.mark.parametrize("name", ALONG)
def test_reading_along_a_dimension(name: str) -> None:
    x = numbers(3, 4)
    np.testing.assert_array_equal(ALONG[name](from_numpy(x)).numpy(), EXPECTED_ALONG[name](x))
    check(ALONG[name], x)


def _looped(x: np.ndarray, dim: int, index: np.ndarray, source: np.ndarray, add: bool) -> np.ndarray:
    out = x.copy()
    for place in np.ndindex(index.shape):
        target = list(place)
        target[dim] = index[place]
        out[tuple(target)] = source[place] + (out[tuple(target)] if add else 0)
    return out


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("size", [(2, 3), (4, 3)])
def test_scatter(dim: int, size: tuple[int, int]) -> None:
    x, source = numbers(3, 4), numbers(*size, seed=1)
    np.testing.assert_allclose(X.scatter_add(from_numpy(x), dim, from_numpy(INDEX2), from_numpy(source)).numpy(),
                               _looped(x, dim, INDEX2, source, True))
    check(lambda t, s: X.scatter_add(t, dim, from_numpy(INDEX2), s), x, source)
    distinct = np.array([[0, 2, 1], [1, 0, 2]])
    np.testing.assert_allclose(X.scatter(from_numpy(x), dim, from_numpy(distinct), from_numpy(source)).numpy(),
                               _looped(x, dim, distinct, source, False))
    check(lambda t, s: X.scatter(t, dim, from_numpy(distinct), s), x, source)
    check(lambda t: X.scatter(t, dim, from_numpy(distinct), 5.0), x)


@pytest.mark.parametrize("dim", [0, 1])
def test_parts(dim: int) -> None:
    x = numbers(3, 4)
    part = numbers(*((3, 4) if dim == 0 else (3, 3)), seed=1)
    key = (slice(None),) * dim + (I,)
    expected = x.copy()
    np.add.at(expected, key, 2 * part)
    found = X.index_add(from_numpy(x), dim, from_numpy(I), from_numpy(part), alpha=2).numpy()
    np.testing.assert_allclose(found, expected)
    check(lambda t, s: X.index_add(t, dim, from_numpy(I), s, alpha=2), x, part)
    distinct = np.array([2, 0, 1])
    key = (slice(None),) * dim + (distinct,)
    expected = x.copy()
    expected[key] = part
    found = X.index_copy(from_numpy(x), dim, from_numpy(distinct), from_numpy(part)).numpy()
    np.testing.assert_allclose(found, expected)
    check(lambda t, s: X.index_copy(t, dim, from_numpy(distinct), s), x, part)
    expected = x.copy()
    expected[(slice(None),) * dim + (I,)] = 3
    np.testing.assert_allclose(X.index_fill(from_numpy(x), dim, from_numpy(I), 3.0).numpy(), expected)
    check(lambda t, v: X.index_fill(t, dim, from_numpy(distinct[:2]), v), x, numbers())


@pytest.mark.parametrize("dim", [0, 1])
def test_adding_into_any_memory_order(dim: int) -> None:
    """Transposed and stretched operands give what row-major ones give; negative indices count from the end."""
    x, source = numbers(4, 3).T, np.broadcast_to(numbers(4), (3, 4))
    index = np.array([[0, 2, 2, 0], [1, 1, 1, 1], [2, 2, 0, 0]])
    expected = _looped(x, dim, index, source, True)
    found = X.scatter_add(from_numpy(x), dim, from_numpy(index), from_numpy(source)).numpy()
    np.testing.assert_allclose(found, expected)
    part = source if dim == 0 else source[:, :3]
    expected = x.copy()
    np.add.at(expected, (slice(None),) * dim + (I,), part)
    np.testing.assert_allclose(X.index_add(from_numpy(x), dim, from_numpy(I), from_numpy(part)).numpy(), expected)
    found = X.index_put(from_numpy(x), np.array([-1, 2, 0]), from_numpy(source), accumulate=True).numpy()
    expected = x.copy()
    np.add.at(expected, ([-1, 2, 0],), source)
    np.testing.assert_allclose(found, expected)
    assert gradient(lambda t: X.getitem(t, np.array([-1, 2, 0])), x)[:, 0].tolist() == [1, 0, 2]


def test_masked_scatter() -> None:
    x, source = numbers(2, 3), numbers(5, seed=1)
    expected = x.copy()
    expected[:, MASK] = source[:4].reshape(2, 2)
    np.testing.assert_array_equal(X.masked_scatter(from_numpy(x), MASK, from_numpy(source)).numpy(), expected)
    check(lambda t, s: X.masked_scatter(t, MASK, s), x, source)
    with pytest.raises(RuntimeError, match="needs 4"):
        X.masked_scatter(from_numpy(x), MASK, from_numpy(source[:3]))


def test_0d() -> None:
    x, zero, twice = leaf(2.0), from_numpy(np.array(0)), from_numpy(np.array([0, 0]))
    assert X.gather(x, 0, zero).shape == () and X.gather(x, 0, twice).shape == (2,)
    assert X.scatter_add(x, 0, zero, leaf(3.0)).item() == 5 and X.scatter(x, 0, zero, 7.0).item() == 7
    assert X.index_select(x, 0, zero).shape == () and X.index_add(x, 0, zero, leaf(1.0)).item() == 3
    assert X.index_fill(x, 0, zero, 1.0).shape == () and X.take_along_dim(x, zero, 0).item() == 2
    check(lambda t: X.gather(t, 0, twice), 2.0)


def test_embedding_without_gradient_for_padding() -> None:
    weight = numbers(4, 2)
    assert gradient(lambda w: X.embedding(w, from_numpy(GRID), -2), weight)[:, 0].tolist() == [1, 1, 0, 0]
    check(lambda w: X.embedding(w * w, from_numpy(GRID)), weight)
    with pytest.raises(RuntimeError, match="padding_idx"):
        X.embedding(leaf(weight), GRID, 4)
    x = leaf(weight)
    (g,) = grad([X.embedding(x, from_numpy(GRID), 2)], [x], [leaf(np.ones((2, 2, 2)))], create_graph=True)
    assert g.requires_grad and g.detach().numpy()[:, 0].tolist() == [1, 1, 0, 0]


def test_nonzero_and_one_hot() -> None:
    x = np.array([[0, 3], [1, 0]])
    assert X.nonzero(from_numpy(x)).numpy().tolist() == [[0, 1], [1, 0]]
    assert [part.numpy().tolist() for part in X.nonzero(from_numpy(x), as_tuple=True)] == [[0, 1], [1, 0]]
    assert X.nonzero(leaf(3.0)).shape == (1, 0) and X.argwhere(leaf([0.0])).shape == (0, 1)
    assert X.one_hot(from_numpy(np.array([1, 0])), 3).numpy().tolist() == [[0, 1, 0], [1, 0, 0]]
    assert X.one_hot(from_numpy(np.array(2))).numpy().tolist() == [0, 0, 1]
    for bad in ([-1], [3]):
        with pytest.raises(RuntimeError, match="do not fit"):
            X.one_hot(from_numpy(np.array(bad)), 3)


WRONG = {
    "gather index": (RuntimeError, lambda x: X.gather(x, 0, np.ones((2, 2)))),
    "gather dims": (RuntimeError, lambda x: X.gather(x, 0, I)),
    "gather size": (RuntimeError, lambda x: X.gather(x, 0, np.zeros((1, 5), int))),
    "gather range": (RuntimeError, lambda x: X.gather(x, 0, np.array([[3]]))),
    "gather negative": (RuntimeError, lambda x: X.gather(x, 0, np.array([[-1]]))),
    "scatter source": (RuntimeError, lambda x: X.scatter(x, 0, INDEX2, leaf(numbers(1, 3)))),
    "scatter dtype": (RuntimeError, lambda x: X.scatter_add(x, 0, INDEX2, from_numpy(np.ones((2, 3), np.float32)))),
    "index_select range": (IndexError, lambda x: X.index_select(x, 0, np.array([3]))),
    "index_select dims": (IndexError, lambda x: X.index_select(x, 0, GRID)),
    "index_add source": (RuntimeError, lambda x: X.index_add(x, 0, I, leaf(numbers(2, 4)))),
    "index_fill value": (RuntimeError, lambda x: X.index_fill(x, 0, I, leaf([1.0]))),
    "take range": (IndexError, lambda x: X.take(x, np.array(12))),
    "mask": (RuntimeError, lambda x: X.masked_select(x, np.ones((3, 4), int))),
    "embedding range": (IndexError, lambda x: X.embedding(x, np.array([3]))),
    "embedding float": (RuntimeError, lambda x: X.embedding(x, np.array([1.0]))),
    "take_along_dim": (RuntimeError, lambda x: X.take_along_dim(x, I, 1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name: str) -> None:
    kind, function = WRONG[name]
    with pytest.raises(kind) as caught:
        function(leaf(numbers(3, 4)))
    assert caught.type is kind
