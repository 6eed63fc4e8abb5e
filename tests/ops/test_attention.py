"""Attention: its formula, masks, shapes that broadcast, all derivatives, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

import distgrad as dg
from distgrad.ops.attention import scaled_dot_product_attention as attend

from .neural import check_derivatives, constant, leaf


def expected(q, k, v, mask=None, causal=False, scale=None):
    scores = q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if mask is not None:
        scores = scores + mask
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ v


SHAPES = [
    ((5, 4), (7, 4), (7, 3)), ((7, 4), (5, 4), (5, 3)), ((2, 3, 1, 4), (2, 3, 5, 4), (2, 3, 5, 4)),
    ((3, 9, 2), (3, 1, 2), (3, 1, 2)), ((2, 1, 2, 3, 17), (2, 1, 2, 34, 17), (2, 1, 2, 34, 33)),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shapes", SHAPES)
def test_it_is_its_formula(shapes, causal):
    q, k, v = (leaf(*shape, seed=i) for i, shape in enumerate(shapes))
    arrays = [x.detach().numpy() for x in (q, k, v)]
    np.testing.assert_allclose(attend(q, k, v, is_causal=causal).detach().numpy(), expected(*arrays, causal=causal),
                               rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(attend(q, k, v, is_causal=causal, scale=-0.3).detach().numpy(),
                               expected(*arrays, causal=causal, scale=-0.3), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shapes", SHAPES[:4])
def test_derivatives(shapes, causal):
    q, k, v = (leaf(*shape, seed=i) for i, shape in enumerate(shapes))
    check_derivatives(lambda q, k, v: attend(q, k, v, is_causal=causal), q, k, v)


@pytest.mark.parametrize("front", [(), (4,), (1, 4), (5, 1), (2, 3, 5, 4)])
def test_a_floating_mask_and_its_gradient(front):
    q, k, v = leaf(2, 3, 5, 3), leaf(2, 3, 4, 3, seed=1), leaf(2, 3, 4, 2, seed=2)
    mask = leaf(*front, seed=3)
    np.testing.assert_allclose(attend(q, k, v, mask).detach().numpy(),
                               expected(*(x.detach().numpy() for x in (q, k, v, mask))), rtol=1e-12)
    check_derivatives(attend, q, k, v, mask)
    check_derivatives(lambda q, k, v: attend(q, k, v, mask.detach()), q, k, v)


def test_a_boolean_mask_and_queries_without_keys():
    q, k, v = leaf(2, 5, 3), leaf(2, 4, 3, seed=1), leaf(2, 4, 2, seed=2)
    mask = np.random.default_rng(0).random((5, 4)) < 0.6
    mask[1], mask[3] = False, True
    y = attend(q, k, v, constant(mask)).detach().numpy()
    np.testing.assert_allclose(y, expected(*(x.detach().numpy() for x in (q, k, v)), np.where(mask, 0, -np.inf)))
    assert not y[:, 1].any()
    check_derivatives(lambda q, k, v: attend(q, k, v, constant(mask)), q, k, v)
    y = attend(leaf(2, 3), leaf(0, 3), leaf(0, 4))
    assert y.shape == (2, 4) and not y.detach().numpy().any()
    assert attend(leaf(2, 0, 3), leaf(2, 4, 3), leaf(2, 4, 1)).shape == (2, 0, 1)


def test_what_stands_in_front_broadcasts():
    q, k, v = leaf(2, 3, 5, 3), leaf(3, 4, 3, seed=1), leaf(1, 4, 2, seed=2)
    np.testing.assert_allclose(attend(q, k, v).detach().numpy(),
                               expected(*(x.detach().numpy() for x in (q, k, v))), rtol=1e-12)
    check_derivatives(lambda q, k, v: attend(q, k, v, is_causal=True), q, k, v)


def test_heads_that_share_keys():
    q, k, v = leaf(2, 6, 5, 3), leaf(2, 2, 4, 3, seed=1), leaf(2, 3, 4, 2, seed=2)
    y = attend(q, k, v, is_causal=True, enable_gqa=True)
    k_, v_ = np.repeat(k.detach().numpy(), 3, 1), np.repeat(v.detach().numpy(), 2, 1)
    np.testing.assert_allclose(y.detach().numpy(), expected(q.detach().numpy(), k_, v_, causal=True), rtol=1e-12)
    check_derivatives(lambda *x: attend(*x, enable_gqa=True), q, k, v)


def test_dropout_is_of_the_weights():
    q, k, v = leaf(4, 64, 8), leaf(4, 64, 8, seed=1), constant(np.broadcast_to(np.eye(64), (4, 64, 64)))
    dg.manual_seed(3)
    weights = attend(q, k, v, dropout_p=0.25).detach().numpy()
    whole = attend(q, k, v).detach().numpy()
    kept = weights != 0
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(weights[kept], whole[kept] / 0.75, rtol=1e-12)
    dg.manual_seed(3)
    np.testing.assert_array_equal(attend(q, k, v, dropout_p=0.25).detach().numpy(), weights)
    assert not attend(q, k, v, dropout_p=1.0).detach().numpy().any()


def test_results_lie_as_queries_do():
    x = leaf(2, 5, 3, 2, 4, dtype="float32")
    q, k, v = (x[:, :, i].transpose(1, 2) for i in range(3))
    y = attend(q, k, v, is_causal=True)
    assert y.transpose(1, 2).is_contiguous()
    assert attend(*(part.contiguous() for part in (q, k, v))).is_contiguous()


def test_half_precision_is_computed_in_single():
    q, k, v = (leaf(4, 8, seed=i, dtype="float16", scale=30) for i in range(3))
    y = attend(q, k, v)
    assert y.dtype == "float16"
    arrays = [x.detach().numpy().astype("float32") for x in (q, k, v)]
    np.testing.assert_allclose(y.detach().numpy(), expected(*arrays), rtol=2e-3, atol=1e-2)
    y.sum().backward()
    assert q.grad.dtype == "float16" and bool(q.grad.isfinite().all())


@pytest.mark.parametrize(("shapes", "settings", "error", "text"), [
    (((4,), (2, 4), (2, 4)), {}, RuntimeError, "length, features"),
    (((2, 4), (2, 3), (2, 4)), {}, RuntimeError, "features"),
    (((2, 4), (2, 4), (3, 4)), {}, RuntimeError, "same length"),
    (((4, 2, 4), (3, 2, 4), (4, 2, 4)), {}, RuntimeError, "enable_gqa"),
    (((4, 2, 4), (3, 2, 4), (3, 2, 4)), {"enable_gqa": True}, RuntimeError, "multiple"),
    (((2, 4),) * 3, {"dropout_p": 1.5}, RuntimeError, "dropout_p"),
    (((2, 4),) * 3, {"attn_mask": np.ones((3, 2), bool)}, RuntimeError, "broadcast"),
    (((2, 4),) * 3, {"attn_mask": np.ones((2, 2), "int64")}, RuntimeError, "int64"),
    (((2, 4),) * 3, {"attn_mask": np.ones((2, 2), bool), "is_causal": True}, RuntimeError, "both"),
])
def test_refusals(shapes, settings, error, text):
    if "attn_mask" in settings:
        settings = {**settings, "attn_mask": constant(settings["attn_mask"])}
    with pytest.raises(error, match=text):
        attend(*(leaf(*shape) for shape in shapes), **settings)


def test_one_dtype():
    with pytest.raises(RuntimeError, match="float32"):
        attend(leaf(2, 4), leaf(2, 4, dtype="float32"), leaf(2, 4))
    with pytest.raises(NotImplementedError):
        attend(*(constant(np.ones((2, 4), "int64")) for _ in range(3)))
