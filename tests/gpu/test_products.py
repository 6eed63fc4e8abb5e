"""Products, sums, norms over the batch, dropout and indexing on the GPU against the reference over numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad.backend.reference import find
from distgrad.nn import functional as F
from tests.gpu.compare import TOLERANCE, every_kind, gpu, needs_a_device, numbers, same, there

pytestmark = needs_a_device


def views(x: np.ndarray) -> dict[str, Any]:
    """The same matrices in other memory, made on the device: as they are, transposed, in pieces, and spread out."""
    wide = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)
    wide[..., 1:-2] = x
    every = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    every[..., ::2] = x
    turned = np.ascontiguousarray(np.swapaxes(x, -1, -2))
    return {"whole": there(x), "turned": there(turned).swapaxes(-1, -2), "part": there(wide)[..., 1:-2],
            "every other": there(every)[..., ::2]}


SHAPES = [((3, 4), (4, 5)), ((1, 4), (4, 5)), ((3, 1), (1, 5)), ((3, 4), (4, 1)), ((1, 1), (1, 1)), ((3, 0), (0, 5)),
          ((0, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((6, 3, 4), (4, 5)), ((3, 4), (2, 4, 1)),
          ((2, 6, 1, 4), (2, 1, 4, 5)), ((0, 3, 4), (0, 4, 2))]


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_products_of_any_memory(shapes: Any, kind: str) -> None:
    a, b = numbers(kind, *shapes[0]), numbers(kind, *shapes[1], seed=1)
    expected = np.matmul(a.astype("float64"), b.astype("float64"))
    same("matmul", kind, a, b, alone=True)
    for mine in views(a).values():
        for yours in views(b).values():
            np.testing.assert_allclose(gpu().to_host(gpu().kernels.matmul(mine, yours)), expected, **TOLERANCE[kind])
            out = there(np.full(expected.shape, np.nan, kind))
            assert gpu().kernels.matmul(mine, yours, out) is out
            np.testing.assert_allclose(gpu().to_host(out), expected, **TOLERANCE[kind])


@every_kind
def test_products_of_heads_that_lie_between_each_other(kind: str) -> None:
    x = numbers(kind, 2, 5, 3, 4)  # (batch, length, heads, features)
    q = there(x).swapaxes(1, 2)
    expected = np.matmul(x.swapaxes(1, 2), x.swapaxes(1, 2).swapaxes(-1, -2))
    np.testing.assert_allclose(gpu().to_host(gpu().kernels.matmul(q, q.swapaxes(-1, -2))), expected, **TOLERANCE[kind])


def test_products_write_where_they_are_told_and_add() -> None:
    from distgrad.backend.gpu.kernels.products import multiply

    a, b, c = numbers("float64", 2, 3, 4), numbers("float64", 2, 4, 5, seed=1), numbers("float64", 2, 3, 5, seed=2)
    out = there(c)
    assert multiply(there(a), there(b), out, alpha=0.5, add=True) is out
    np.testing.assert_allclose(gpu().to_host(out), 0.5 * (a @ b) + c, rtol=1e-12)
    turned = there(np.zeros((5, 3, 2))).swapaxes(0, 2)
    assert gpu().kernels.matmul(there(a), there(b), turned) is turned
    np.testing.assert_allclose(gpu().to_host(turned), a @ b, rtol=1e-12)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (4,), (0, 4)])
def test_linear(shape: tuple[int, ...], kind: str) -> None:
    x, weight, bias = numbers(kind, *shape), numbers(kind, 5, 4, seed=1), numbers(kind, 5, seed=2)
    same("linear", kind, x, weight, bias, alone=kind != "float16")
    same("linear", kind, x, weight, None)
    if len(shape) > 1:
        g, room = numbers(kind, *shape[:-1], 5, seed=3), there(np.full((5, 4), np.nan, kind))
        assert gpu().kernels.linear_grad_weight(there(g), there(x), room) is room
        np.testing.assert_allclose(gpu().to_host(room), find("linear_grad_weight")(np, g, x), **TOLERANCE[kind])


@every_kind
@pytest.mark.parametrize("shape", [(3, 5), (1, 40), (700, 33), (300, 2, 40), (9000, 3), (5, 1)])
def test_sums_over_leading_dimensions(shape: tuple[int, ...], kind: str) -> None:
    x = numbers(kind, *shape)
    same("sum_leading", kind, x, 1, alone=shape[1:] != (1,))
    x[0] = np.nan
    same("sum_leading", kind, x, len(shape) - 1, alone=shape[-1] != 1)


def test_sums_are_the_same_in_every_run() -> None:
    x = there(numbers("float32", 20_000, 7))
    first = gpu().to_host(gpu().kernels.sum_leading(x, 1))
    np.testing.assert_array_equal(first, gpu().to_host(gpu().kernels.sum_leading(x, 1)))


@every_kind
@pytest.mark.parametrize("shape", [(40, 5), (4, 3, 70), (3, 2, 4, 4), (260, 33), (70, 2, 8, 9)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape: tuple[int, ...], affine: bool, kind: str) -> None:
    channels = shape[1]
    x, g = numbers(kind, *shape) + 3, numbers(kind, *shape, seed=1)
    weight, bias = (numbers(kind, channels, seed=2), numbers(kind, channels, seed=3)) if affine else (None, None)
    axes, inner = (0, *range(2, len(shape))), (1, channels, *(1,) * (len(shape) - 2))
    for training in (True, False):
        running = numbers(kind, channels, seed=4), np.abs(numbers(kind, channels, seed=5)) + 0.1
        same("batch_norm", kind, x, weight, bias, *running, 1e-5, 0.3, training, alone=True)
        same("batch_norm", kind, x, weight, bias, *running, 1e-5, 0.3, training, alone=True, changed=True)
        _, mean, rstd = find("batch_norm")(np, x, weight, bias, *running, 1e-5, 0.3, training)
        for needs in ((True, True, True), (True, False, False), (False, False, True)):
            same("normalize_backward", kind, g, x, mean, rstd, weight, axes, inner, (channels,), not training, needs,
                 alone=True)
    same("batch_norm", kind, x, weight, bias, None, None, 1e-5, 0.3, True, alone=True)


def test_batch_norm_cancels_nothing() -> None:
    x = numbers("float32", 500, 3) + 1e4
    y, _, _ = gpu().kernels.batch_norm(there(x), None, None, None, None, 0.0, 0.1, True)
    wide = x.astype("float64")
    np.testing.assert_allclose(gpu().to_host(y), (wide - wide.mean(0)) / wide.std(0), atol=5e-3)


@every_kind
def test_dropout_in_one_pass(kind: str) -> None:
    x, noise = numbers(kind, 7, 30), np.random.default_rng(0).random((7, 30), "float32")
    for p in (0.0, 0.3, 1.0):
        same("dropout", kind, x, noise, p, alone=True)
        same("dropout_backward", kind, x, noise >= np.float32(p), p, alone=True)
    same("dropout", kind, x, noise[:, :1].copy(), 0.3)  # whole rows: the reference's way


@every_kind
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_gather_and_scatter(dim: int, kind: str) -> None:
    x = numbers(kind, 3, 4, 5)
    shape = [3, 4, 5]
    shape[dim] = 7
    index = np.random.default_rng(dim).integers(0, x.shape[dim], shape)
    same("gather", kind, x, dim, index, alone=True)
    same("gather", kind, x, dim, index.astype("int32"), alone=True)
    same("scatter_add", kind, x, dim, index, numbers(kind, *shape, seed=1), alone=True)
    same("gather", kind, x, dim, index[:2, :2, :2])  # smaller in other dimensions too: the reference's way
    same("scatter_add", kind, x, dim, index[:2, :2, :2], numbers(kind, 2, 2, 2, seed=1))


@every_kind
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("count", [0, 9, 700])
def test_index_add(count: int, dim: int, kind: str) -> None:
    x, index = numbers(kind, 11, 6, 3), np.random.default_rng(0).integers(0, 6, count)
    shape = [11, 6, 3]
    shape[dim] = count
    same("index_add", kind, x, dim, index, numbers(kind, *shape, seed=1), alone=count > 0)
    if dim == 0:
        value, out = numbers(kind, *shape, seed=1), there(x)
        np.testing.assert_allclose(gpu().to_host(gpu().kernels.index_put(out, (there(index),), there(value), True)),
                                   find("index_put")(np, x, (index,), value, True), **TOLERANCE[kind])


@pytest.mark.parametrize("large", [False, True])
def test_the_gradient_of_an_embedding(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu()
    if large:
        monkeypatch.setattr("distgrad.backend.gpu.kernels.indexed._MOST_BLOCKS", 0)
    index = np.random.default_rng(0).integers(0, 9, (5, 60))
    found = []
    for device in ("cpu", "cuda"):
        table = dg.tensor(numbers("float32", 9, 300), device=device, requires_grad=True)
        F.embedding(dg.tensor(index, device=device), table).sin().sum().backward()
        found.append(table.grad.cpu().numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)
