"""Reference kernels that no op covers: the registry, parameter updates, sums of squares on the grid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distgrad.backend import get
from distgrad.backend.reference import find
from distgrad.backend.reference.update import PIECE
from distgrad.flat import GRID

kernels = get("cpu").kernels


def arrays(count, size, dtype="float64"):
    rng = np.random.default_rng(size)
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


def test_unknown_kernels():
    assert find("softmax") is find("softmax")
    with pytest.raises(AttributeError, match="no_such_kernel"):
        find("no_such_kernel")


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE + 1, 2 * PIECE + 7])
@pytest.mark.parametrize(("momentum", "dampening", "nesterov", "decay"), [
    (0, 0, False, 0), (0, 0, False, 0.1), (0.9, 0, False, 0), (0.9, 0.5, False, 0.1), (0.9, 0, True, 0.1),
])
def test_sgd(size, momentum, dampening, nesterov, decay):
    p, g = arrays(2, size)
    expected, buf, expected_buf = p.copy(), np.full(size, np.nan) if momentum else None, None
    for step in range(3):
        kept = g.copy()
        kernels.sgd_(p, g, buf, 0.1, momentum, dampening, decay, nesterov, step == 0, 0.5)
        np.testing.assert_array_equal(g, kept)
        d = 0.5 * g + decay * expected
        if momentum:
            expected_buf = d if step == 0 else momentum * expected_buf + (1 - dampening) * d
            np.testing.assert_allclose(buf, expected_buf, rtol=1e-12)
            d = d + momentum * expected_buf if nesterov else expected_buf
        expected = expected - 0.1 * d
        np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-15)
        g = -g


@pytest.mark.parametrize("size", [0, 1, PIECE + 1])
@pytest.mark.parametrize(("amsgrad", "decay", "decoupled"), [(False, 0, False), (True, 0.1, False), (False, 0.1, True)])
def test_adam(size, amsgrad, decay, decoupled):
    p, g = arrays(2, size)
    m, v, vmax = np.zeros(size), np.zeros(size), np.zeros(size) if amsgrad else None
    q, qm, qv, qmax = p.copy(), m.copy(), v.copy(), np.zeros(size)
    for step in range(1, 4):
        kept = g.copy()
        kernels.adam_(p, g, m, v, vmax, 0.01, 0.9, 0.99, 1e-6, decay, decoupled, step, 0.5)
        np.testing.assert_array_equal(g, kept)
        d = 0.5 * g
        if decoupled:
            q = q * (1 - 0.01 * decay)
        else:
            d = d + decay * q
        qm = 0.9 * qm + 0.1 * d
        qv = 0.99 * qv + 0.01 * d * d
        qmax = np.maximum(qmax, qv)
        root = np.sqrt(qmax if amsgrad else qv) / math.sqrt(1 - 0.99 ** step)
        q = q - 0.01 / (1 - 0.9 ** step) * qm / (root + 1e-6)
        for found, wanted in ((p, q), (m, qm), (v, qv)):
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-14)
        g = g * -0.3


def test_updates_keep_single_precision_and_write_into_views():
    for name, rest in (("sgd_", (0.1, 0.9, 0, 0, False, True, 1.0)),
                       ("adam_", (0.1, 0.9, 0.99, 1e-8, 0, False, 1, 1.0))):
        memory, g, b, c = arrays(4, 3 * PIECE, "float32")
        before, part = memory.copy(), slice(5, PIECE + 9)
        state = (np.abs(b[part]),) if name == "sgd_" else (b[part], np.abs(c[part]), None)
        getattr(kernels, name)(memory[part], g[part], *state, *rest)
        assert (memory[part] != before[part]).all()
        np.testing.assert_array_equal(memory[:5], before[:5])
        np.testing.assert_array_equal(memory[part.stop:], before[part.stop:])


def test_an_update_does_not_depend_on_how_memory_is_cut():
    p, g, m, v = arrays(4, 2 * PIECE + 100, "float32")
    np.abs(v, out=v)
    rest = (None, 0.1, 0.9, 0.99, 1e-8, 0.01, False, 2, 0.7)
    whole, cut = [x.copy() for x in (p, m, v)], [x.copy() for x in (p, m, v)]
    kernels.adam_(whole[0], g, whole[1], whole[2], *rest)
    for part in (slice(0, 3), slice(3, PIECE + 1), slice(PIECE + 1, None)):
        kernels.adam_(cut[0][part], g[part], cut[1][part], cut[2][part], *rest)
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [0, 1, GRID - 1, GRID, GRID + 1, 5 * GRID + 17])
def test_sums_of_squares(size, dtype):
    (x,) = arrays(1, size, dtype)
    blocks = kernels.norm_blocks(x, 2, GRID)
    assert blocks.dtype == np.float64
    assert blocks.shape == (-(-size // GRID),)
    wide = x.astype("float64")
    expected = [math.fsum(wide[start:start + GRID] ** 2) for start in range(0, size, GRID)]
    np.testing.assert_allclose(blocks, expected, rtol=1e-13)


def test_squares_do_not_depend_on_how_memory_is_cut():
    (x,) = arrays(1, 11 * GRID + 100, "float32")
    whole = kernels.norm_blocks(x, 2, GRID)
    for cut in (1, 3, 4, 10):
        parts = [kernels.norm_blocks(x[start * GRID:(start + cut) * GRID], 2, GRID) for start in range(0, 12, cut)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    shifted = np.empty(x.size + 1, "float32")[1:]  # another alignment
    shifted[:] = x
    np.testing.assert_array_equal(kernels.norm_blocks(shifted, 2, GRID), whole)
