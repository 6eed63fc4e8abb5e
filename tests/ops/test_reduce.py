"""Sums, means, variances, norms, products, extremes: values, gradients, edges, errors."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from distgrad._tensor.creation import from_numpy
from distgrad.ops import reduce as R

from .checking import check, gradient, leaf, numbers

DIMS = [None, 0, -1, (0, 2), ()]
REDUCTIONS = {
    "sum": (R.sum, np.sum), "mean": (R.mean, np.mean), "amax": (R.amax, np.max), "amin": (R.amin, np.min),
    "var": (R.var, lambda x, axis, keepdims: np.var(x, axis=axis, keepdims=keepdims, ddof=1)),
    "std": (R.std, lambda x, axis, keepdims: np.std(x, axis=axis, keepdims=keepdims, ddof=1)),
    "logsumexp": (R.logsumexp, lambda x, axis, keepdims: np.log(np.exp(x).sum(axis, keepdims=keepdims))),
    "norm": (lambda x, dim, keepdim=False: R.norm(x, 2, dim, keepdim),
             lambda x, axis, keepdims: np.sqrt((x * x).sum(axis, keepdims=keepdims))),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dim", DIMS, ids=str)
@pytest.mark.parametrize("keepdim", [False, True])
def test_values(name: str, dim: object, keepdim: bool) -> None:
    ours, theirs = REDUCTIONS[name]
    x = numbers(3, 4, 2)
    expected = theirs(x, axis=None if dim == () else dim, keepdims=keepdim)
    found = ours(from_numpy(x), dim, keepdim=keepdim).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(ours(x, dim, keepdim=keepdim), expected, rtol=1e-12)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize(("dim", "keepdim"), [(None, False), (1, False), ((0, -1), True), (-1, True)], ids=str)
def test_gradients(name: str, dim: object, keepdim: bool) -> None:
    ours, _ = REDUCTIONS[name]
    check(lambda x: ours(x, dim, keepdim=keepdim), numbers(3, 2, 2))


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3, 4.5, math.inf, -math.inf])
@pytest.mark.parametrize("dim", [None, 1])
def test_norms(p: float, dim: int | None) -> None:
    x = numbers(3, 4)
    expected = np.apply_along_axis(lambda v: np.linalg.norm(v, p), 1, x) if dim else np.linalg.norm(x.ravel(), p)
    np.testing.assert_allclose(R.vector_norm(from_numpy(x), p, dim).numpy(), expected, rtol=1e-12)
    check(lambda t: R.vector_norm(t, p, dim), x)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
def test_a_norm_of_zeros_has_gradient_zero(p: float) -> None:
    assert not gradient(lambda x: R.vector_norm(x, p), np.zeros(3)).any()
    assert not gradient(lambda x: R.vector_norm(x, p, 1).sum(), np.zeros((2, 3))).any()


def test_zero_norm_counts() -> None:
    assert R.norm(from_numpy(np.array([0.0, 2.0, -math.inf])), 0).item() == 2
    assert R.norm(leaf([0.0, 2.0]), 0).requires_grad
    assert gradient(lambda x: R.norm(x, 0), [0.0, 2.0]) is None
    assert gradient(lambda x: R.norm(x, 0) + R.sum(x), [0.0, 2.0]).tolist() == [1, 1]


@pytest.mark.parametrize("x", [[2.0, 3.0, 4.0], [2.0, 0.0, 4.0], [0.0, 0.0, 4.0], [5.0]], ids=str)
def test_prod_through_zeros(x: list[float]) -> None:
    check(R.prod, x)
    check(lambda t: R.prod(t, 1), np.stack([x, x[::-1]]))
    check(lambda t: R.prod(t, 0, True), np.stack([x, x[::-1]]))


def test_prod_of_everything() -> None:
    x = numbers(2, 3)
    assert R.prod(from_numpy(x)).item() == pytest.approx(x.prod())
    check(R.prod, x)
    assert R.prod(from_numpy(np.zeros((0, 3)))).item() == 1


def test_amax_shares_among_equals_and_max_picks_the_first() -> None:
    x = [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]
    np.testing.assert_allclose(gradient(lambda t: R.amax(t, 1).sum(), x), [[0, .5, .5], [1 / 3] * 3])
    np.testing.assert_allclose(gradient(lambda t: R.max(t, 1).values.sum(), x), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(gradient(lambda t: R.min(t, 0).values.sum(), x), [[1, 0, 0], [0, 1, 1]])
    np.testing.assert_allclose(gradient(R.max, x), [[0, .5, .5], [0, 0, 0]])


@pytest.mark.parametrize("function", [R.max, R.min, R.median])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_values_with_indices(function: object, dim: int, keepdim: bool) -> None:
    x = numbers(3, 4)
    values, indices = found = function(from_numpy(x), dim, keepdim)
    assert found.values is values and found.indices is indices
    assert indices.dtype == np.int64 and not indices.requires_grad
    places = indices.numpy() if keepdim else np.expand_dims(indices.numpy(), dim)
    expected = np.take_along_axis(x, places, dim)
    np.testing.assert_array_equal(values.numpy(), expected if keepdim else expected.squeeze(dim))
    check(lambda t: function(t, dim, keepdim).values, x)


def test_extremes_by_definition() -> None:
    x = numbers(3, 5)
    t = from_numpy(x)
    np.testing.assert_array_equal(R.max(t, 1).values.numpy(), x.max(1))
    np.testing.assert_array_equal(R.min(t, 0).values.numpy(), x.min(0))
    np.testing.assert_array_equal(R.median(t, 1).values.numpy(), np.median(x, 1))
    np.testing.assert_array_equal(R.median(t[:, :4], 1).values.numpy(), np.sort(x[:, :4], 1)[:, 1])
    assert R.median(t).item() == np.median(x)
    assert R.argmax(t).item() == x.argmax() and R.argmin(t).item() == x.argmin()
    np.testing.assert_array_equal(R.argmax(t, 1).numpy(), x.argmax(1))
    assert R.argmin(t, 0, True).shape == (1, 5)
    np.testing.assert_array_equal(R.max(t, from_numpy(x[::-1].copy())).numpy(), np.maximum(x, x[::-1]))


def test_nan_is_extreme() -> None:
    t = from_numpy(np.array([1.0, np.nan, 3.0]))
    assert math.isnan(R.max(t).item()) and R.max(t, 0).indices.item() == 1 and R.argmin(t).item() == 1
    assert math.isnan(R.median(t).item()) and R.median(t, 0).indices.item() == 1
    for function in (R.max, R.min, R.median):
        assert gradient(function, [1.0, math.nan, 3.0, math.nan]).tolist() == [0, .5, 0, .5]


def test_the_median_of_all_shares_among_equals() -> None:
    assert gradient(R.median, [3.0, 1.0, 3.0, 4.0, 3.0]).tolist() == [1 / 3, 0, 1 / 3, 0, 1 / 3]
    check(R.median, numbers(2, 3))


@pytest.mark.parametrize("function", [R.sum, R.mean, R.amax, R.prod, R.logsumexp, R.norm], ids=lambda f: f.__name__)
def test_0d(function: object) -> None:
    arguments = (0,) if function is R.logsumexp else ()
    x = leaf(2.0)
    assert function(x, *arguments).item() == pytest.approx(2)
    check(lambda t: function(t, *arguments), 2.0)


def test_0d_with_a_dim() -> None:
    x = leaf(2.0)
    assert R.sum(x, 0).item() == 2 and R.sum(x, -1).shape == ()
    assert R.max(x, 0, True).values.shape == () and R.max(x, 0).indices.item() == 0
    assert R.argmax(x, 0).item() == 0 and R.prod(x, 0).item() == 2 and R.median(x, 0).values.item() == 2


def test_dtypes() -> None:
    i = from_numpy(np.array([1, 2], np.int32))
    assert R.sum(i).dtype == np.int64 and R.prod(i).dtype == np.int64
    assert R.sum(from_numpy(np.array([True, True]))).item() == 2
    assert R.sum(i, dtype="float32").dtype == np.float32 and R.mean(i, dtype="float64").item() == 1.5
    for function in (R.mean, R.var, R.std, R.norm):
        with pytest.raises(RuntimeError, match="floating"):
            function(i)
    many = from_numpy(np.ones(70000, np.float16))
    assert R.mean(many).dtype == np.float16 and R.mean(many).item() == 1
    assert R.norm(from_numpy(np.full(4, 200, np.float16))).item() == 400


def test_empty() -> None:
    empty = from_numpy(np.zeros((0, 3)))
    assert R.sum(empty).item() == 0 and math.isnan(R.mean(empty).item())
    assert R.sum(empty, 0).shape == (3,) and R.mean(empty, 1).shape == (0,)
    assert R.logsumexp(empty, 0).numpy().tolist() == [-math.inf] * 3
    assert gradient(lambda x: R.sum(x, 1), np.zeros((0, 3))).shape == (0, 3)
    for function in (R.amax, R.argmax, R.max):
        with pytest.raises(IndexError, match="nothing"):
            function(empty, 0)
        with pytest.raises((RuntimeError, IndexError), match="nothing"):
            function(empty)


def test_logsumexp_at_its_edges() -> None:
    inf = math.inf
    x = np.array([[-inf, -inf], [0.0, -inf], [1000.0, 1000.0], [inf, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = R.logsumexp(from_numpy(x), 1).numpy()
        slopes = gradient(lambda t: R.logsumexp(t, 1)[:3], x[:3])
    np.testing.assert_allclose(found, [-inf, 0, 1000 + math.log(2), inf])
    np.testing.assert_allclose(slopes, [[0, 0], [1, 0], [.5, .5]])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(gradient(lambda t: R.logsumexp(t, 0), [inf, 0.0]), [math.nan, 0])


def test_variance_at_its_edges() -> None:
    assert not gradient(R.std, [2.0, 2.0, 2.0]).any()
    with np.errstate(all="ignore"):
        assert math.isnan(R.var(leaf([1.0])).item())
        assert np.isnan(gradient(R.var, [1.0])).all()
    assert R.var(leaf([1.0]), correction=0).item() == 0
    assert R.var(leaf([1.0, 3.0]), unbiased=False).item() == 1
    with pytest.raises(TypeError, match="not both"):
        R.var(leaf([1.0, 3.0]), unbiased=False, correction=0)
    check(lambda x: R.var(x, 1, correction=0), numbers(2, 3))
    check(lambda x: R.std(x, (0, 1), correction=2), numbers(2, 3))


def test_nansum() -> None:
    x = [[1.0, math.nan], [3.0, 4.0]]
    assert R.nansum(leaf(x)).item() == 8
    np.testing.assert_array_equal(gradient(R.nansum, x), [[1, 0], [1, 1]])


def test_truth_and_counting() -> None:
    t = from_numpy(np.array([[0.0, 2.0], [1.0, math.nan]]))
    assert R.any(t).item() is True and R.all(t).item() is False
    assert R.all(t, 1).numpy().tolist() == [False, True] and R.any(t, 0, True).shape == (1, 2)
    assert R.count_nonzero(t).item() == 3 and R.count_nonzero(t, 0).numpy().tolist() == [1, 2]
    assert R.count_nonzero(t).dtype == np.int64


@pytest.mark.parametrize("size", [(3, 1), (1, 4), (4,), (), (1, 1), (1,), (3, 4)], ids=str)
def test_sum_to_size(size: tuple[int, ...]) -> None:
    x = numbers(3, 4)
    expected = x
    while expected.ndim > len(size):
        expected = expected.sum(0)
    for i, n in enumerate(size):
        if n == 1:
            expected = expected.sum(i, keepdims=True)
    np.testing.assert_allclose(R.sum_to_size(from_numpy(x), size).numpy(), expected)
    check(lambda t: R.sum_to_size(t, size), x)


def test_sum_to_size_refuses() -> None:
    for size in ((2, 4), (3, 4, 1), (2,)):
        with pytest.raises(RuntimeError, match="not a broadcast"):
            R.sum_to_size(leaf(numbers(3, 4)), size)


@pytest.mark.parametrize("function", [R.sum, R.mean, R.amax, R.var, R.logsumexp], ids=lambda f: f.__name__)
def test_wrong_dims(function: object) -> None:
    x = leaf(numbers(2, 3))
    with pytest.raises(IndexError, match="outside"):
        function(x, 2)
    with pytest.raises(RuntimeError, match="twice"):
        function(x, (0, -2))
    with pytest.raises(TypeError, match="integer"):
        function(x, "0")
