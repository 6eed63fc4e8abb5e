"""The GPU's kernels against the reference over numpy: `pytest --device cuda tests/gpu`, or standin for cuda."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.reference import find
from tests.gpu.compare import TOLERANCE, every_kind, gpu, needs_a_device, numbers, same

pytestmark = needs_a_device


@every_kind
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "log_sigmoid", "sigmoid", "silu"])
def test_activations(name: str, kind: str) -> None:
    same(name, kind, numbers(kind, 3, 100))
    same(name, kind, numbers(kind, 7, 5).T)
    same(name, kind, np.array([0.0, -0.0, 50.0, -50.0, math.inf, math.nan], kind))


@every_kind
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "relu", "sigmoid", "tanh"])
def test_slopes(name: str, kind: str) -> None:
    function = {"gelu": dg.functions.gelu, "gelu_tanh": lambda x: dg.functions.gelu(x, "tanh"), "relu": dg.relu,
                "sigmoid": dg.sigmoid, "tanh": dg.tanh}[name]
    values = np.concatenate([numbers(kind, 40), np.array([0.0, 9.0, -9.0], kind)])
    found = []
    for device in ("cpu", "cuda"):
        x = dg.tensor(values, device=device, requires_grad=True)
        function(x).backward(dg.tensor(numbers(kind, 43, seed=1), device=device))
        found.append(x.grad.cpu().numpy())
    np.testing.assert_allclose(found[1], found[0], **TOLERANCE[kind])


@every_kind
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 130), (4, 1)])
def test_softmax(shape: tuple[int, ...], kind: str) -> None:
    x = numbers(kind, *shape)
    x[0, 0] = -np.inf if shape[-1] > 1 else 1
    for name in ("softmax", "log_softmax"):
        same(name, kind, x, -1)
        same(name, kind, x, 0)
        y = find(name)(np, numbers(kind, *shape), -1)
        same(f"{name}_backward", kind, numbers(kind, *shape, seed=1), y, len(shape) - 1)


@every_kind
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(reduction: str, weighted: bool, smoothing: float, kind: str) -> None:
    x, target = numbers(kind, 6, 37), np.array([0, 36, 5, -100, 7, 7])
    weight = np.abs(numbers(kind, 37)) if weighted else None
    args = (x, target, weight, -100, smoothing, reduction)
    same("cross_entropy", kind, *args)
    _, *kept = find("cross_entropy")(np, *args)
    g = np.asarray(numbers(kind, 6) if reduction == "none" else numbers(kind))
    same("cross_entropy_backward", kind, g, *kept, target, weight, -100, smoothing, reduction)


@every_kind
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(centered: bool, affine: bool, kind: str) -> None:
    x, g = numbers(kind, 2, 3, 70), numbers(kind, 2, 3, 70, seed=1)
    weight, bias = (numbers(kind, 70, seed=2), numbers(kind, 70, seed=3)) if affine else (None, None)
    same("normalize", kind, x, weight, bias if centered else None, 1e-5, (2,), (1, 1, 70), centered)
    _, mean, rstd = find("normalize")(np, x, weight, None, 1e-5, (2,), (1, 1, 70), centered)
    for needs in ((True, True, True), (True, False, False), (False, True, True)):
        same("normalize_backward", kind, g, x, mean, rstd, weight, (2,), (1, 1, 70), (70,), False, needs)
    same("normalize", kind, x, None, None, 1e-5, (1, 2), (1, 3, 1), centered)  # other axes: the reference's way


@every_kind
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("inner", [(2, 3, 4, 10), (1, 1, 2, 1), (40, 2, 3, 5)])
def test_group_norm(inner: tuple[int, ...], affine: bool, kind: str) -> None:
    x, g, channels = numbers(kind, *inner), numbers(kind, *inner, seed=1), inner[1] * inner[2]
    weight, bias = (numbers(kind, channels, seed=2), numbers(kind, channels, seed=3)) if affine else (None, None)
    broadcast = (1, *inner[1:3], 1)
    same("normalize", kind, x, weight, bias, 1e-5, (2, 3), broadcast, True, alone=True)
    _, mean, rstd = find("normalize")(np, x, weight, None, 1e-5, (2, 3), broadcast, True)
    for needs in ((True, True, True), (True, False, False), (False, False, True)):
        same("normalize_backward", kind, g, x, mean, rstd, weight, (2, 3), broadcast, (channels,), False, needs,
             alone=True)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(causal: bool, masked: bool, kind: str) -> None:
    q, k, v = numbers(kind, 2, 3, 5, 8), numbers(kind, 2, 3, 7, 8, seed=1), numbers(kind, 2, 3, 7, 4, seed=2)
    mask = np.where(numbers("float64", 5, 7) > 1, -np.inf, 0).astype(kind) if masked else None
    if mask is not None:
        mask[2] = -np.inf
    same("attention", kind, q, k, v, mask, causal, 0.3)
    _, top, total = find("attention")(np, q, k, v, mask, causal, 0.3)
    for of_mask in (False, True):
        same("attention_backward", kind, numbers(kind, 2, 3, 5, 4, seed=3), q, k, v, mask, top, total, causal, 0.3,
             of_mask)


@every_kind
@pytest.mark.parametrize("size", [1, 4096, 10_000])
def test_norms(size: int, kind: str) -> None:
    same("norm_blocks", kind, numbers(kind, size), 2.0, 4096)
    same("norm_blocks", kind, numbers(kind, size), math.inf, 4096)


def _recurrent(kind: str, gates: int) -> dict[str, np.ndarray]:
    return {"x": numbers(kind, 4, 3, 5), "h0": numbers(kind, 3, 6), "w_ih": numbers(kind, gates * 6, 5),
            "w_hh": numbers(kind, gates * 6, 6), "b_ih": numbers(kind, gates * 6),
            "b_hh": numbers(kind, gates * 6, seed=1),
            "gy": numbers(kind, 4, 3, 6, seed=2), "gh": numbers(kind, 3, 6, seed=3), "gc": numbers(kind, 3, 6, seed=4),
            "c0": numbers(kind, 3, 6, seed=5)}


@every_kind
@pytest.mark.parametrize("reverse", [False, True])
def test_lstm(reverse: bool, kind: str) -> None:
    a = _recurrent(kind, 4)
    args = (a["x"], a["h0"], a["c0"], a["w_ih"], a["w_hh"], a["b_ih"], a["b_hh"], None, reverse)
    same("lstm_layer", kind, *args)
    y, _, _, gates, cells, bent = find("lstm_layer")(np, *args)
    for gy, gh, gc in ((a["gy"], a["gh"], a["gc"]), (None, a["gh"], None), (a["gy"], None, None)):
        same("lstm_layer_backward", kind, gy, gh, gc, a["x"], a["h0"], a["w_ih"], a["w_hh"], None, y, gates, cells,
             bent, (True,) * 5, reverse)


@every_kind
@pytest.mark.parametrize("reverse", [False, True])
def test_gru(reverse: bool, kind: str) -> None:
    a = _recurrent(kind, 3)
    args = (a["x"], a["h0"], a["w_ih"], a["w_hh"], a["b_ih"], a["b_hh"], reverse)
    same("gru_layer", kind, *args)
    y, _, gates, inner = find("gru_layer")(np, *args)
    for gy, gh in ((a["gy"], a["gh"]), (None, a["gh"]), (a["gy"], None)):
        same("gru_layer_backward", kind, gy, gh, a["x"], a["h0"], a["w_ih"], a["w_hh"], y, gates, inner, (True,) * 5,
             reverse)


def test_uniform_numbers_follow_the_seed() -> None:
    stream = np.random.default_rng(0)
    drawn = gpu().to_host(gpu().uniform(stream, (1001, 3)))
    again = gpu().to_host(gpu().uniform(np.random.default_rng(0), (1001, 3)))
    np.testing.assert_array_equal(drawn, again)
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.02 and abs(drawn.std() - 12 ** -0.5) < 0.02
    assert len(np.unique(drawn)) > 2990 and (drawn != gpu().to_host(gpu().uniform(stream, (1001, 3)))).any()


def test_philox_is_philox() -> None:
    """The first block under the key 0, as in the method's published test vectors."""
    class Zero:
        def integers(self, *args: Any, **options: Any) -> np.uint64:
            return np.uint64(0)

    expected = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]) >> 8
    np.testing.assert_array_equal(gpu().to_host(gpu().uniform(Zero(), (4,))) * (1 << 24), expected)
