"""Pooling: values against windows taken one by one, ties and NaN, derivatives, errors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from distgrad.ops.pool import adaptive_avg_pool1d, adaptive_avg_pool2d, avg_pool1d, avg_pool2d, max_pool1d, max_pool2d

from .neural import check_derivatives, constant, leaf


def sides(size, k, s, p, d, ceil_mode):
    """For each window along one side, the places that it covers, padding included."""
    out = (size + 2 * p - d * (k - 1) - 1) / s
    count = int(np.ceil(out) if ceil_mode else np.floor(out)) + 1
    starts = [i * s - p for i in range(count)]
    if ceil_mode and starts[-1] >= size:
        starts.pop()
    return [[start + i * d for i in range(k)] for start in starts]


SETTINGS = list(product([2, (3, 2)], [None, 1, (2, 3)], [0, 1], [1, 2], [False, True]))


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "ceil_mode"), SETTINGS)
def test_windows(kernel, stride, padding, dilation, ceil_mode):
    x = np.random.default_rng(0).integers(0, 5, (2, 2, 7, 8)).astype("float64")
    k = (kernel, kernel) if isinstance(kernel, int) else kernel
    s = k if stride is None else (stride, stride) if isinstance(stride, int) else stride
    rows, columns = (sides(n, k[i], s[i], padding, dilation, ceil_mode) for i, n in enumerate(x.shape[2:]))
    y, where = max_pool2d(constant(x), kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    alone = max_pool2d(constant(x), kernel, stride, padding, dilation, ceil_mode)
    np.testing.assert_array_equal(alone.numpy(), y.numpy())
    assert y.shape == where.shape == (2, 2, len(rows), len(columns))
    averages = {flag: avg_pool2d(constant(x), kernel, stride, padding, ceil_mode, flag).numpy()
                for flag in (True, False)} if dilation == 1 else {}
    for n, c, i, j in np.ndindex(y.shape):
        places = [(r, q) for r in rows[i] for q in columns[j] if 0 <= r < 7 and 0 <= q < 8]
        values = [x[n, c, r, q] for r, q in places]
        assert y.numpy()[n, c, i, j] == max(values)
        r, q = places[int(np.argmax(values))]  # the first of equals
        assert where.numpy()[n, c, i, j] == r * 8 + q
        if averages:
            padded = sum(1 for r in rows[i] for q in columns[j] if r < 7 + padding and q < 8 + padding)
            np.testing.assert_allclose(averages[True][n, c, i, j], sum(values) / padded)
            np.testing.assert_allclose(averages[False][n, c, i, j], sum(values) / len(values))


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode"), [(2, None, 0, False), (3, 1, 1, False),
                                                                        ((2, 3), 2, 1, True)])
def test_derivatives(kernel, stride, padding, ceil_mode):
    x = leaf(2, 2, 4, 5)
    check_derivatives(lambda x: max_pool2d(x, kernel, stride, padding, 1, ceil_mode), x)
    check_derivatives(lambda x: max_pool2d(x * x, kernel, stride, padding, 1, ceil_mode, True), x[:1, :1].detach()
                      .requires_grad_())
    check_derivatives(lambda x: avg_pool2d(x, kernel, stride, padding, ceil_mode), x)
    check_derivatives(lambda x: avg_pool2d(x * x, kernel, stride, padding, ceil_mode, False, 3), x)


def test_ties_nan_and_infinities():
    x = constant(np.ones((1, 1, 2, 2))).requires_grad_()
    max_pool2d(x, 2).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy()[0, 0], [[1, 0], [0, 0]])
    x = constant([[[[1.0, np.nan], [3.0, 2.0]]]]).requires_grad_()
    y = max_pool2d(x, 2)
    assert np.isnan(y.item())
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy()[0, 0], [[0, 1], [0, 0]])
    x = constant(np.full((1, 1, 2, 2), -np.inf)).requires_grad_()
    y, where = max_pool2d(x, 2, 2, 1, return_indices=True)
    np.testing.assert_array_equal(where.numpy()[0, 0], [[0, 1], [2, 3]])  # never a place in the padding
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((1, 1, 2, 2)))


def test_overlapping_windows_add_up():
    x = constant(np.arange(9.0).reshape(1, 1, 3, 3)).requires_grad_()
    max_pool2d(x, 2, 1, 1).sum().backward()
    assert x.grad.numpy().sum() == 16
    assert x.grad.numpy()[0, 0, 2, 2] == 4


def test_one_dimension():
    x = leaf(2, 3, 8)
    xn = x.detach().numpy()
    np.testing.assert_array_equal(max_pool1d(x, 2).detach().numpy(), xn.reshape(2, 3, 4, 2).max(-1))
    np.testing.assert_allclose(avg_pool1d(x, 2).detach().numpy(), xn.reshape(2, 3, 4, 2).mean(-1))
    y, where = max_pool1d(x, 3, stride=2, padding=1, return_indices=True)
    np.testing.assert_array_equal(np.take_along_axis(xn, where.numpy(), 2), y.detach().numpy())
    check_derivatives(lambda x: max_pool1d(x, 3, 2, 1), x)
    check_derivatives(lambda x: avg_pool1d(x, 3, 2, 1), x)


@pytest.mark.parametrize("size", [1, 2, (3, 2), (None, 4), (7, 8), (9, 5)])
def test_adaptive(size):
    x = leaf(2, 2, 7, 8)
    xn = x.detach().numpy()
    oh, ow = (n if s is None else s for n, s in zip((7, 8), size if isinstance(size, tuple) else (size, size),
                                                    strict=True))
    y = adaptive_avg_pool2d(x, size).detach().numpy()
    assert y.shape == (2, 2, oh, ow)
    for i, j in np.ndindex(oh, ow):
        window = xn[:, :, i * 7 // oh:-(-(i + 1) * 7 // oh), j * 8 // ow:-(-(j + 1) * 8 // ow)]
        np.testing.assert_allclose(y[:, :, i, j], window.mean((2, 3)), rtol=1e-10)
    check_derivatives(lambda x: adaptive_avg_pool2d(x, size), x[:1, :1].detach().requires_grad_())


def test_adaptive_in_one_dimension():
    x = leaf(2, 3, 6)
    np.testing.assert_allclose(adaptive_avg_pool1d(x, 3).detach().numpy(),
                               x.detach().numpy().reshape(2, 3, 3, 2).mean(-1))


def test_without_a_batch_and_other_dtypes():
    x = leaf(2, 4, 4)
    np.testing.assert_array_equal(max_pool2d(x, 2).detach().numpy(), max_pool2d(x[None], 2).detach().numpy()[0])
    np.testing.assert_array_equal(max_pool2d(constant(np.arange(16).reshape(1, 1, 4, 4)), 2).numpy()[0, 0],
                                  [[5, 7], [13, 15]])
    half = avg_pool2d(constant(np.full((1, 1, 64, 64), 30.0), "float16"), 64)
    assert half.dtype == np.float16
    assert half.item() == 30


@pytest.mark.parametrize(("call", "words"), [
    (lambda x: max_pool2d(x, 3, padding=2), "half"),
    (lambda x: max_pool2d(x, 9), "larger"),
    (lambda x: max_pool2d(x, 0), "kernel_size"),
    (lambda x: max_pool2d(x, 2, stride=0), "stride"),
    (lambda x: avg_pool2d(x, 2, divisor_override=0), "divisor_override"),
    (lambda x: avg_pool2d(x[0, 0], 2), "dimensions"),
    (lambda x: adaptive_avg_pool2d(x, 0), "output_size"),
])
def test_errors(call, words):
    with pytest.raises(RuntimeError, match=words):
        call(leaf(2, 2, 8, 8))
