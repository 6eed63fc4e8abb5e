"""Normalisations: values against the formula, running statistics, derivatives, edges, errors."""

from __future__ import annotations

import numpy as np
import pytest

from distgrad.autograd import grad
from distgrad.ops.normalize import batch_norm, group_norm, layer_norm, rms_norm

from .neural import check_derivatives, constant, leaf


def standard(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
@pytest.mark.parametrize(("shape", "last"), [((3, 5), 1), ((2, 3, 4), 2), ((4,), 1)])
def test_layer_norm(shape, last, affine):
    x = leaf(*shape)
    w = leaf(*shape[-last:], seed=1) if affine in ("both", "weight") else None
    b = leaf(*shape[-last:], seed=2) if affine in ("both", "bias") else None
    y = layer_norm(x, shape[-last:], w, b).detach().numpy()
    expected = standard(x.detach().numpy(), tuple(range(len(shape) - last, len(shape))))
    expected = expected * (1 if w is None else w.detach().numpy()) + (0 if b is None else b.detach().numpy())
    np.testing.assert_allclose(y, expected, rtol=1e-10)
    check_derivatives(lambda x, w, b: layer_norm(x, shape[-last:], w, b), x, w, b)


@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(weighted):
    x, w = leaf(3, 4), leaf(4, seed=1) if weighted else None
    xn = x.detach().numpy()
    expected = xn / np.sqrt((xn * xn).mean(1, keepdims=True) + 0.1) * (w.detach().numpy() if weighted else 1)
    np.testing.assert_allclose(rms_norm(x, (4,), w, 0.1).detach().numpy(), expected, rtol=1e-12)
    assert np.isfinite(rms_norm(constant(np.zeros((1, 4)), "float32"), 4).numpy()).all()
    check_derivatives(lambda x, w: rms_norm(x, (4,), w, 0.1), x, w)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(2, 6, 3), (3, 6, 2, 2)])
def test_group_norm(groups, shape):
    x, w, b = leaf(*shape), leaf(6, seed=1), leaf(6, seed=2)
    affine = (1, 6, *(1,) * (len(shape) - 2))
    expected = standard(x.detach().numpy().reshape(shape[0], groups, -1), (2,)).reshape(shape)
    expected = expected * w.detach().numpy().reshape(affine) + b.detach().numpy().reshape(affine)
    np.testing.assert_allclose(group_norm(x, groups, w, b).detach().numpy(), expected, rtol=1e-10)
    check_derivatives(lambda x, w, b: group_norm(x, groups, w, b), x[:1].detach().requires_grad_(), w, b)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (3, 3, 2), (2, 3, 2, 2)])
def test_batch_norm_in_training(shape, affine):
    x = leaf(*shape)
    w, b = (leaf(3, seed=1), leaf(3, seed=2)) if affine else (None, None)
    mean, var = constant(np.full(3, 0.5)), constant(np.full(3, 2.0))
    axes = (0, *range(2, len(shape)))
    batch_norm(x, mean, var, w, b, training=True, momentum=0.25)
    xn = x.detach().numpy()
    np.testing.assert_allclose(mean.numpy(), 0.75 * 0.5 + 0.25 * xn.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), 0.75 * 2.0 + 0.25 * xn.var(axes, ddof=1), rtol=1e-12)
    broadcast = (1, 3, *(1,) * (len(shape) - 2))
    expected = standard(xn, axes)
    if affine:
        expected = expected * w.detach().numpy().reshape(broadcast) + b.detach().numpy().reshape(broadcast)
    y = batch_norm(x, None, None, w, b, training=True)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10)
    check_derivatives(lambda x, w, b: batch_norm(x, None, None, w, b, training=True), x, w, b)


def test_batch_norm_by_running_statistics():
    x, w, b = leaf(2, 3, 2), leaf(3, seed=1), leaf(3, seed=2)
    mean, var = constant([0.5, -1.0, 0.0]), constant([2.0, 1.0, 0.5])
    xn, wn, bn = (t.detach().numpy() for t in (x, w, b))
    expected = (xn - mean.numpy()[:, None]) / np.sqrt(var.numpy()[:, None] + 1e-5) * wn[:, None] + bn[:, None]
    np.testing.assert_allclose(batch_norm(x, mean, var, w, b).detach().numpy(), expected, rtol=1e-12)
    check_derivatives(lambda x, w, b: batch_norm(x, mean, var, w, b), x, w, b)
    np.testing.assert_array_equal(mean.numpy(), [0.5, -1.0, 0.0])


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_by_running_statistics_that_moved_since(create_graph):
    x, w = leaf(4, 2), leaf(2, seed=1)
    mean, var = constant(np.zeros(2)), constant(np.ones(2))
    y = batch_norm(x, mean, var, w, eps=0.0)
    batch_norm(leaf(4, 2, seed=1, shift=5), mean, var, training=True)
    gx, gw = grad(y.sum(), [x, w], create_graph=create_graph)
    np.testing.assert_allclose(gx.detach().numpy(), np.ones((4, 1)) * w.detach().numpy())
    np.testing.assert_allclose(gw.detach().numpy(), x.detach().numpy().sum(0), rtol=1e-12)


def test_variance_does_not_cancel():
    x = np.random.default_rng(0).standard_normal((8, 256)) + 1e4
    y = layer_norm(constant(x, "float32"), 256).numpy()
    np.testing.assert_allclose(y.std(axis=1), 1, rtol=1e-3)
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=2e-3)


def test_half_precision_is_summed_in_single():
    x = np.random.default_rng(0).standard_normal((2, 4096)) * 100
    y = layer_norm(constant(x, "float16"), 4096)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.numpy().astype("float64"), standard(x, (1,)), atol=5e-3)


@pytest.mark.parametrize("call", [
    lambda x: layer_norm(x, 4), lambda x: rms_norm(x, 4), lambda x: group_norm(x, 2),
    lambda x: batch_norm(x, constant(np.zeros(4)), constant(np.ones(4))),
])
def test_empty_batches(call):
    x = leaf(0, 4)
    y = call(x)
    assert y.shape == (0, 4)
    y.sum().backward()
    assert x.grad.shape == (0, 4)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: layer_norm(leaf(3, 5), 4), RuntimeError, r"\(3, 5\).*\(4,\)"),
    (lambda: layer_norm(leaf(3, 5), 5, leaf(4)), RuntimeError, r"weight.*\(5,\).*\(4,\)"),
    (lambda: layer_norm(leaf(3, 5), 5, leaf(5, dtype="float32")), RuntimeError, "weight is float32"),
    (lambda: rms_norm(leaf(3, 5), 4), RuntimeError, "rms_norm"),
    (lambda: group_norm(leaf(3, 5), 2), RuntimeError, "2 groups"),
    (lambda: batch_norm(leaf(1, 5), None, None, training=True), ValueError, "more than one value"),
    (lambda: batch_norm(leaf(3, 5), None, None), RuntimeError, "running_mean"),
    (lambda: batch_norm(leaf(3, 5), leaf(4), leaf(5), training=True), RuntimeError, r"\(4,\).*5 channels"),
    (lambda: batch_norm(leaf(3), None, None, training=True), RuntimeError, r"\(3,\)"),
    (lambda: layer_norm(constant([[1, 2]]), 2), NotImplementedError, "int64"),
])
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
