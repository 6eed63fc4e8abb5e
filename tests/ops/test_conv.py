"""Convolutions: values against sums over windows, transposed ones as adjoints, derivatives, errors."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from distgrad.backend.reference import convolve
from distgrad.ops.conv import conv1d, conv2d, conv_transpose2d

from .neural import check_derivatives, constant, leaf


def by_hand(x, w, stride, pads, dilation, groups):
    """One output element at a time."""
    x = np.pad(x, ((0, 0), (0, 0), *pads))
    n, c, h, wide = x.shape
    o, depth, kh, kw = w.shape
    oh = (h - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (wide - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, o, oh, ow))
    for i, k, r, s in np.ndindex(y.shape):
        first = k // (o // groups) * depth
        window = x[i, first:first + depth, r * stride[0]:, s * stride[1]:][:, ::dilation[0], ::dilation[1]]
        y[i, k, r, s] = (window[:, :kh, :kw] * w[k]).sum()
    return y


SETTINGS = list(product([(1, 1), (2, 1)], [(0, 0), (1, 2)], [(1, 1), (1, 2)], [1, 2], [(3, 2), (1, 1)]))


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups", "kernel"), SETTINGS)
def test_conv2d(stride, padding, dilation, groups, kernel):
    x, w, b = leaf(2, 4, 5, 6), leaf(4, 4 // groups, *kernel, seed=1), leaf(4, seed=2)
    y = conv2d(x, w, b, stride, padding, dilation, groups).detach().numpy()
    pads = ((padding[0],) * 2, (padding[1],) * 2)
    expected = by_hand(x.detach().numpy(), w.detach().numpy(), stride, pads, dilation, groups)
    np.testing.assert_allclose(y, expected + b.detach().numpy()[:, None, None], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 2)])
def test_same_and_valid(kernel):
    x, w = leaf(2, 1, 5, 6), leaf(3, 1, *kernel, seed=1)
    y = conv2d(x, w, padding="same", dilation=(1, 2)).detach().numpy()
    extra = (kernel[0] - 1, 2 * (kernel[1] - 1))
    pads = tuple((n // 2, n - n // 2) for n in extra)
    np.testing.assert_allclose(y, by_hand(x.detach().numpy(), w.detach().numpy(), (1, 1), pads, (1, 2), 1), atol=1e-12)
    assert y.shape[2:] == (5, 6)
    np.testing.assert_array_equal(conv2d(x, w, padding="valid").detach().numpy(), conv2d(x, w).detach().numpy())


@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups", "bias"), [
    (1, 0, 1, 1, True), (2, 1, 1, 1, True), ((1, 2), (0, 1), (2, 1), 1, False), (1, 1, 1, 2, True),
])
def test_derivatives(op, stride, padding, dilation, groups, bias):
    if op == "conv2d":
        def call(x, w, b):
            return conv2d(x, w, b, stride, padding, dilation, groups)
        weight = leaf(2, 2 // groups, 2, 2, seed=1)
    else:
        def call(x, w, b):
            return conv_transpose2d(x, w, b, stride, padding, 0, groups, dilation)
        weight = leaf(2, 2 // groups, 2, 2, seed=1)
    check_derivatives(call, leaf(2, 2, 4, 3), weight, leaf(2, seed=2) if bias else None)


@pytest.mark.parametrize(("stride", "padding", "extra", "groups"), [(1, 0, 0, 1), (2, 1, 1, 1), ((3, 2), 1, (2, 0), 2)])
def test_transposed_is_the_adjoint(stride, padding, extra, groups):
    """<conv(x, w), z> = <x, conv_transpose(z, w)> for all x and z."""
    w = leaf(4, 2, 3, 3, seed=1)
    z = leaf(2, 4, 3, 4, seed=2)
    back = conv_transpose2d(z, w, None, stride, padding, extra, groups).detach().numpy()
    x = leaf(*back.shape, seed=3)
    y = conv2d(x, w, None, stride, padding, 1, groups).detach().numpy()
    assert y.shape == z.shape
    np.testing.assert_allclose((y * z.detach().numpy()).sum(), (x.detach().numpy() * back).sum(), rtol=1e-10)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, "same", 2), ((2,), (1,), (2,))])
def test_conv1d(stride, padding, dilation):
    x, w, b = leaf(2, 2, 7), leaf(3, 2, 3, seed=1), leaf(3, seed=2)
    s, d = (v[0] if isinstance(v, tuple) else v for v in (stride, dilation))
    p = 2 if padding == "same" else padding[0] if isinstance(padding, tuple) else padding
    expected = by_hand(x.detach().numpy()[:, :, None], w.detach().numpy()[:, :, None], (1, s), ((0, 0), (p, p)),
                       (1, d), 1)[:, :, 0] + b.detach().numpy()[:, None]
    np.testing.assert_allclose(conv1d(x, w, b, stride, padding, dilation).detach().numpy(), expected, rtol=1e-10)
    check_derivatives(lambda x, w, b: conv1d(x, w, b, stride, padding, dilation), leaf(1, 2, 5), w, b)


def test_without_a_batch():
    x, w = leaf(2, 5, 5), leaf(3, 2, 3, 3, seed=1)
    np.testing.assert_array_equal(conv2d(x, w).detach().numpy(), conv2d(x[None], w).detach().numpy()[0])
    assert conv1d(leaf(2, 5), leaf(3, 2, 3)).shape == (3, 3)
    assert conv_transpose2d(leaf(2, 5, 5), leaf(2, 3, 3, 3)).shape == (3, 7, 7)
    y = conv2d(leaf(0, 2, 5, 5), w)
    assert y.shape == (0, 3, 3, 3)


def test_batches_larger_than_the_buffer(monkeypatch):
    """The same numbers, whether the windows of one or of all samples are unfolded at a time."""
    x, w = leaf(5, 2, 6, 6), leaf(3, 2, 3, 3, seed=1)
    results = []
    for elements in (1, 2 * 2 * 9 * 16, 1 << 30):
        monkeypatch.setattr(convolve, "BUFFER", elements)
        x.grad = w.grad = None
        y = conv2d(x, w)
        (y * y).sum().backward()
        results.append((y.detach().numpy(), x.grad.numpy(), w.grad.numpy()))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(("settings", "x", "w", "words"), [
    ({}, (2, 4, 8, 8), (6, 3, 3, 3), "4 channels"),
    ({"groups": 4}, (2, 4, 8, 8), (6, 1, 3, 3), "groups=4"),
    ({}, (2, 4, 8, 8), (6, 4, 9, 9), "larger than"),
    ({"stride": 0}, (2, 4, 8, 8), (6, 4, 3, 3), "stride"),
    ({"padding": -1}, (2, 4, 8, 8), (6, 4, 3, 3), "padding"),
    ({"padding": "same", "stride": 2}, (2, 4, 8, 8), (6, 4, 3, 3), "stride 1"),
    ({"padding": "reflect"}, (2, 4, 8, 8), (6, 4, 3, 3), "reflect"),
    ({}, (8, 8), (6, 4, 3, 3), r"\(8, 8\)"),
    ({"bias": constant(np.zeros(5))}, (2, 4, 8, 8), (6, 4, 3, 3), r"\(5,\).*6 channels"),
    ({"dilation": (1, 2, 3)}, (2, 4, 8, 8), (6, 4, 3, 3), "dilation"),
])
def test_errors(settings, x, w, words):
    with pytest.raises(RuntimeError, match=words):
        conv2d(constant(np.zeros(x)), constant(np.zeros(w)), **settings)


def test_errors_of_the_transposed():
    x = constant(np.zeros((1, 2, 4, 4)))
    with pytest.raises(RuntimeError, match="output_padding"):
        conv_transpose2d(x, constant(np.zeros((2, 2, 3, 3))), output_padding=1)
    with pytest.raises(RuntimeError, match=r"\(3, 2, 3, 3\)"):
        conv_transpose2d(x, constant(np.zeros((3, 2, 3, 3))))
