"""Losses: values, derivatives at the edges, reductions, bad targets."""

from __future__ import annotations

import numpy as np
import pytest

from distgrad.ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)

from .neural import check_derivatives, constant, leaf

REDUCTIONS = ["none", "mean", "sum"]


def log_probabilities(x):
    z = np.moveaxis(x, 1 if x.ndim > 1 else 0, -1)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def by_hand(log_p, target, weight, ignore, reduction, smoothing=0.0):
    """Cross entropy one sample at a time; log_p has its classes last."""
    classes = log_p.shape[-1]
    w = np.ones(classes) if weight is None else weight
    losses, counted = np.zeros(target.shape), 0.0
    for place in np.ndindex(target.shape):
        t = target[place]
        if t == ignore:
            continue
        spread = -(w * log_p[place]).sum() * smoothing / classes
        losses[place] = -(1 - smoothing) * w[t] * log_p[place][t] + spread
        counted += w[t]
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / counted}[reduction]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2), (2, 3, 2, 2), (3,)])
def test_cross_entropy_of_indices(shape, weighted, smoothing, reduction):
    x = leaf(*shape, scale=2)
    target = np.random.default_rng(1).integers(0, 3, shape[:1] + shape[2:] if len(shape) > 1 else ())
    if target.ndim:
        target.flat[1] = -100
    weight = np.array([0.5, 2.0, 1.5]) if weighted else None
    w = None if weight is None else constant(weight)

    def loss(x):
        return cross_entropy(x, constant(target), w, reduction=reduction, label_smoothing=smoothing)

    expected = by_hand(log_probabilities(x.detach().numpy()), target, weight, -100, reduction, smoothing)
    np.testing.assert_allclose(loss(x).detach().numpy(), expected, rtol=1e-12)
    check_derivatives(loss, x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2), (3,)])
def test_nll_loss(shape, reduction):
    x = leaf(*shape)
    target = np.random.default_rng(1).integers(0, 3, shape[:1] + shape[2:] if len(shape) > 1 else ())
    weight = np.array([0.5, 2.0, 1.5])
    ignore = int(target.flat[0]) if target.ndim else -100

    def loss(x):
        return nll_loss(x, constant(target), constant(weight), ignore, reduction)

    classes_last = np.moveaxis(x.detach().numpy(), 1 if len(shape) > 1 else 0, -1)
    np.testing.assert_allclose(loss(x).detach().numpy(), by_hand(classes_last, target, weight, ignore, reduction))
    check_derivatives(lambda x: loss(x * x), x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2), (3,)])
def test_cross_entropy_of_probabilities(shape, reduction):
    x, target = leaf(*shape), leaf(*shape, seed=1)
    weight = np.array([0.5, 2.0, 1.5])

    def loss(x, target):
        return cross_entropy(x, target, constant(weight), reduction=reduction, label_smoothing=0.1)

    dim = 1 if len(shape) > 1 else 0
    t = np.moveaxis(target.detach().numpy(), dim, -1) * 0.9 + 0.1 / 3
    rows = -(t * weight * log_probabilities(x.detach().numpy())).sum(-1)
    expected = {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]
    np.testing.assert_allclose(loss(x, target).detach().numpy(), expected, rtol=1e-12)
    check_derivatives(loss, x, target)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_cross_entropy_at_the_edges():
    x = leaf(3, 4)
    nothing = constant([-100, -100, -100])
    assert np.isnan(cross_entropy(x, nothing).item())
    assert cross_entropy(x, nothing, reduction="sum").item() == 0
    assert np.isnan(cross_entropy(constant(np.zeros((0, 4))), constant(np.zeros(0, int))).item())
    # An ignored row may hold anything: it reaches neither the loss nor the gradient.
    x = constant([[0.0, 1.0], [np.inf, np.nan]]).requires_grad_()
    loss = cross_entropy(x, constant([1, 7]), ignore_index=7)
    loss.backward()
    np.testing.assert_allclose(loss.item(), np.log1p(np.exp(-1)))
    np.testing.assert_array_equal(x.grad.numpy()[1], [0, 0])
    # Large scores neither overflow nor lose the difference; a class may be impossible.
    x = constant([[1e4, 1e4 - 1, -np.inf]]).requires_grad_()
    loss = cross_entropy(x, constant([1]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), 1 + np.log1p(np.exp(-1)))
    np.testing.assert_allclose(x.grad.numpy(), [[0.7310585786, -0.7310585786, 0]])


def test_cross_entropy_keeps_its_dtype():
    for dtype in ("float16", "float32"):
        x = leaf(2, 5, dtype=dtype)
        loss = cross_entropy(x, constant([1, 2], "int32"), constant(np.ones(5), dtype))
        loss.backward()
        assert loss.dtype == x.grad.dtype == np.dtype(dtype)


@pytest.mark.parametrize(("target", "error", "words"), [
    ([0, 1, 5], IndexError, "target 5.*5 classes"),
    ([0, 1, -1], IndexError, "target -1"),
    ([0, 1], ValueError, r"\(3, 5\).*\(2,\)"),
    ([[0], [1], [2]], RuntimeError, r"\(3,\).*\(3, 1\)"),
    ([0.0, 1.0, 2.0], RuntimeError, "integers.*float64"),
    ([True, False, True], RuntimeError, "integers.*bool"),
    (np.zeros((3, 5), int), RuntimeError, "probabilities.*int64"),
])
def test_bad_targets(target, error, words):
    with pytest.raises(error, match=words):
        cross_entropy(leaf(3, 5), constant(target))


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda x, t: cross_entropy(x, t, constant(np.ones(4))), RuntimeError, r"\(4,\).*5 classes"),
    (lambda x, t: cross_entropy(x, t, leaf(5)), RuntimeError, "require grad"),
    (lambda x, t: cross_entropy(x, t, reduction="average"), ValueError, "average"),
    (lambda x, t: cross_entropy(x, t, label_smoothing=1.5), RuntimeError, r"1\.5"),
    (lambda x, t: cross_entropy(constant(np.ones((3, 5), int)), t), NotImplementedError, "int64"),
    (lambda x, t: cross_entropy(leaf(), t), RuntimeError, "0-d"),
    (lambda x, t: cross_entropy(x, x, ignore_index=1), RuntimeError, "ignore_index=1"),
    (lambda x, t: nll_loss(x, constant([0, 1, 9])), IndexError, "target 9"),
    (lambda x, t: huber_loss(x, x, delta=0), RuntimeError, "delta"),
    (lambda x, t: smooth_l1_loss(x, x, beta=-1), RuntimeError, "beta"),
    (lambda x, t: binary_cross_entropy(x, x), RuntimeError, "with_logits"),
    (lambda x, t: binary_cross_entropy(x, leaf(1, 5)), ValueError, r"\(3, 5\).*\(1, 5\)"),
    (lambda x, t: mse_loss(x, x, "total"), ValueError, "total"),
    (lambda x, t: mse_loss(t, t), NotImplementedError, "int64"),
])
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call(leaf(3, 5), constant([0, 1, 2]))


def probabilities(seed):
    return constant(np.random.default_rng(seed).uniform(0.1, 0.9, (3, 4))).requires_grad_()


PAIRWISE = {
    "mse": (mse_loss, lambda d, x, t: d * d),
    "l1": (l1_loss, lambda d, x, t: abs(d)),
    "huber": (lambda x, t, r: huber_loss(x, t, r, 0.7),
              lambda d, x, t: np.where(abs(d) < 0.7, d * d / 2, 0.7 * (abs(d) - 0.35))),
    "smooth_l1": (lambda x, t, r: smooth_l1_loss(x, t, r, 0.7),
                  lambda d, x, t: np.where(abs(d) < 0.7, d * d / 1.4, abs(d) - 0.35)),
    "smooth_l1_0": (lambda x, t, r: smooth_l1_loss(x, t, r, 0), lambda d, x, t: abs(d)),
    "bce": (lambda x, t, r: binary_cross_entropy(x, t, None, r),
            lambda d, x, t: -t * np.log(x) - (1 - t) * np.log(1 - x)),
    "bce_logits": (lambda x, t, r: binary_cross_entropy_with_logits(x, t, None, r, constant([1.0, 2.0, 3.0, 0.5])),
                   lambda d, x, t: -t * np.array([1, 2, 3, 0.5]) * np.log(1 / (1 + np.exp(-x)))
                   - (1 - t) * np.log(1 - 1 / (1 + np.exp(-x)))),
    "kl": (kl_div, lambda d, x, t: t * (np.log(t) - x)),
    "kl_log": (lambda x, t, r: kl_div(x, t, r, log_target=True), lambda d, x, t: np.exp(t) * (t - x)),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", PAIRWISE)
def test_losses_between_numbers(name, reduction):
    loss, formula = PAIRWISE[name]
    x, t = probabilities(0), probabilities(1)
    xn, tn = x.detach().numpy(), t.detach().numpy()
    terms = formula(xn - tn, xn, tn)
    expected = {"none": terms, "sum": terms.sum(), "mean": terms.mean()}[reduction]
    np.testing.assert_allclose(loss(x, t, reduction).detach().numpy(), expected, rtol=1e-12)
    check_derivatives(lambda x, t: loss(x, t, reduction), x, t)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_losses_at_the_edges():
    for loss in (l1_loss, mse_loss, huber_loss, smooth_l1_loss):
        x = constant([1.0, 2.0]).requires_grad_()
        loss(x, constant([1.0, 2.0])).backward()
        np.testing.assert_array_equal(x.grad.numpy(), [0, 0])
    x = constant([np.inf, -np.inf]).requires_grad_()
    huber_loss(x, constant([0.0, 0.0]), "sum", delta=0.5).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0.5, -0.5])
    x = constant([0.0, 1.0]).requires_grad_()
    loss = binary_cross_entropy(x, constant([1.0, 0.0]), reduction="none")
    np.testing.assert_array_equal(loss.detach().numpy(), [100, 100])
    loss.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [-1e12, 1e12])
    x = constant([-800.0, 800.0]).requires_grad_()
    loss = binary_cross_entropy_with_logits(x, constant([1.0, 0.0]), reduction="none")
    np.testing.assert_array_equal(loss.detach().numpy(), [800, 800])
    loss.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [-1, 1])
    assert kl_div(constant([-1.0, -1.0]), constant([0.0, 1.0]), "sum").item() == 1
    assert kl_div(constant(np.zeros((4, 2))), constant(np.ones((4, 2))) * np.e, "batchmean").item() == 2 * np.e
    assert np.isnan(mse_loss(constant(np.zeros(0)), constant(np.zeros(0))).item())


def test_cosine_similarity():
    a, b = leaf(3, 4), leaf(3, 4, seed=1)
    an, bn = a.detach().numpy(), b.detach().numpy()
    expected = (an * bn).sum(1) / np.linalg.norm(an, axis=1) / np.linalg.norm(bn, axis=1)
    np.testing.assert_allclose(cosine_similarity(a, b).detach().numpy(), expected, rtol=1e-12)
    assert cosine_similarity(constant(np.zeros((1, 4))), b[:1]).item() == 0
    check_derivatives(cosine_similarity, a, b)
