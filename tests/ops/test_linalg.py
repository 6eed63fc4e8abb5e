"""Products of vectors and matrices, and factorisations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distgrad._tensor.creation import from_numpy
from distgrad.ops import linalg as L
from distgrad.ops import shape as S

from .checking import check, gradient, leaf, numbers

MATMUL = [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((2, 2, 3), (3, 2)), ((2, 2, 3), (2, 3, 2)),
          ((2, 1, 2, 3), (3, 3, 1)), ((2, 3), (2, 3, 2)), ((2, 2, 3), (3,)), ((3,), (2, 3, 2)), ((1, 2, 3), (2, 3, 2)),
          ((2, 0), (0, 3)), ((0, 2), (2, 3))]


@pytest.mark.parametrize("shapes", MATMUL, ids=str)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = numbers(*shapes[0]), numbers(*shapes[1], seed=1)
    found = L.matmul(from_numpy(a), from_numpy(b))
    assert found.shape == (a @ b).shape
    np.testing.assert_allclose(found.numpy(), a @ b, rtol=1e-12)
    check(L.matmul, a, b)


def _spd(x: Any) -> Any:
    """A symmetric positive definite matrix made of any square one."""
    return L.matmul(x, S.mT(x)) + from_numpy(np.eye(x.shape[-1]))


def _symmetric(x: Any) -> Any:
    return x + S.mT(x)


# name: (shapes, ours, numpy's)
PRODUCTS: dict[str, tuple[list[tuple[int, ...]], Callable[..., Any], Callable[..., Any]]] = {
    "mm": ([(2, 3), (3, 2)], L.mm, np.matmul),
    "bmm": ([(2, 2, 3), (2, 3, 1)], L.bmm, np.matmul),
    "mv": ([(2, 3), (3,)], L.mv, np.matmul),
    "dot": ([(3,), (3,)], L.dot, np.dot),
    "vdot": ([(3,), (3,)], L.vdot, np.vdot),
    "outer": ([(2,), (3,)], L.outer, np.outer),
    "inner": ([(2, 3), (4, 3)], L.inner, np.inner),
    "inner-1d": ([(3,), (3,)], L.inner, np.inner),
    "inner-0d": ([(), (3,)], L.inner, np.inner),
    "addmm": ([(2,), (2, 3), (3, 2)], lambda x, a, b: L.addmm(x, a, b, beta=2, alpha=3),
              lambda x, a, b: 2 * x + 3 * (a @ b)),
    "addmv": ([(2,), (2, 3), (3,)], L.addmv, lambda x, a, b: x + a @ b),
    "addr": ([(2, 3), (2,), (3,)], L.addr, lambda x, a, b: x + np.outer(a, b)),
    "baddbmm": ([(2, 2, 1), (2, 2, 3), (2, 3, 2)], L.baddbmm, lambda x, a, b: x + a @ b),
    "addbmm": ([(2, 2), (3, 2, 2), (3, 2, 2)], L.addbmm, lambda x, a, b: x + (a @ b).sum(0)),
    "multi_dot": ([(2, 4), (4, 3), (3, 1), (1, 2)], lambda *xs: L.multi_dot(xs), lambda *xs: np.linalg.multi_dot(xs)),
    "multi_dot-vectors": ([(4,), (4, 3), (3,)], lambda *xs: L.multi_dot(xs), lambda *xs: np.linalg.multi_dot(xs)),
    "chain_matmul": ([(2, 3), (3, 2)], L.chain_matmul, np.matmul),
    "trace": ([(3, 2)], L.trace, np.trace),
    "cross": ([(2, 3), (3,)], L.cross, np.cross),
    "cross-dim": ([(3, 2), (3, 2)], lambda a, b: L.cross(a, b, 0), lambda a, b: np.cross(a, b, axis=0)),
    "kron": ([(2, 3), (2,)], L.kron, np.kron),
    "matrix_power": ([(3, 3)], lambda x: L.matrix_power(x, 5), lambda x: np.linalg.matrix_power(x, 5)),
    "matrix_power-inverse": ([(3, 3)], lambda x: L.matrix_power(x, -2), lambda x: np.linalg.matrix_power(x, -2)),
    "matrix_power-zero": ([(2, 2)], lambda x: L.matrix_power(x, 0), lambda x: np.eye(2)),
    "tensordot": ([(2, 3, 2), (3, 2, 2)], L.tensordot, np.tensordot),
    "tensordot-0": ([(2,), (3,)], lambda a, b: L.tensordot(a, b, 0), lambda a, b: np.tensordot(a, b, 0)),
    "tensordot-dims": ([(2, 3, 4), (4, 2)], lambda a, b: L.tensordot(a, b, ([0, -1], [1, 0])),
                       lambda a, b: np.tensordot(a, b, ([0, -1], [1, 0]))),
}
FACTORISATIONS = {
    "inv": ([(2, 3, 3)], L.inv, np.linalg.inv),
    "det": ([(2, 3, 3)], L.det, np.linalg.det),
    "det-2": ([(2, 2)], L.det, np.linalg.det),
    "slogdet": ([(2, 3, 3)], lambda x: L.slogdet(x).logabsdet, lambda x: np.linalg.slogdet(x)[1]),
    "logdet": ([(3, 3)], lambda x: L.logdet(_spd(x)), lambda x: np.log(np.linalg.det(x @ x.T + np.eye(3)))),
    "solve": ([(3, 3), (3, 2)], L.solve, np.linalg.solve),
    "solve-vector": ([(3, 3), (3,)], L.solve, np.linalg.solve),
    "solve-batch-vector": ([(2, 3, 3), (2, 3)], L.solve, lambda a, b: np.linalg.solve(a, b[..., None])[..., 0]),
    "solve-broadcast": ([(2, 3, 3), (3, 2)], L.solve, np.linalg.solve),
    "solve-right": ([(3, 3), (2, 3)], lambda a, b: L.solve(a, b, left=False), lambda a, b: b @ np.linalg.inv(a)),
    "cholesky": ([(2, 3, 3)], lambda x: L.cholesky(_spd(x)),
                 lambda x: np.linalg.cholesky(x @ x.swapaxes(1, 2) + np.eye(3))),
    "cholesky-upper": ([(3, 3)], lambda x: L.cholesky(_spd(x), upper=True),
                       lambda x: np.linalg.cholesky(x @ x.T + np.eye(3)).T),
    "qr-Q": ([(4, 3)], lambda x: L.qr(x).Q, lambda x: np.linalg.qr(x)[0]),
    "qr-R": ([(2, 3, 2)], lambda x: L.qr(x).R, lambda x: np.linalg.qr(x)[1]),
    "qr-both": ([(3, 3)], lambda x: tuple(L.qr(x)), np.linalg.qr),
    "qr-wide": ([(2, 4)], lambda x: tuple(L.qr(x)), np.linalg.qr),
    "qr-wide-complete": ([(2, 3)], lambda x: tuple(L.qr(x, "complete")), lambda x: np.linalg.qr(x, "complete")),
    "svd-S": ([(2, 3, 2)], lambda x: L.svd(x).S, lambda x: np.linalg.svd(x)[1]),
    "svdvals": ([(2, 4)], L.svdvals, lambda x: np.linalg.svd(x)[1]),
    "svd-square": ([(3, 3)], lambda x: tuple(L.svd(x)), np.linalg.svd),
    "svd-tall": ([(4, 2)], lambda x: tuple(L.svd(x, False)), lambda x: np.linalg.svd(x, False)),
    "svd-wide": ([(2, 2, 3)], lambda x: tuple(L.svd(x, False)), lambda x: np.linalg.svd(x, False)),
    "svd-U": ([(3, 2)], lambda x: L.svd(x, False).U, lambda x: np.linalg.svd(x, False)[0]),
    "svd-Vh": ([(2, 3)], lambda x: L.svd(x, False).Vh, lambda x: np.linalg.svd(x, False)[2]),
    "eigh": ([(2, 3, 3)], lambda x: tuple(L.eigh(_symmetric(x))), lambda x: np.linalg.eigh(x + x.swapaxes(1, 2))),
    "eigh-upper": ([(3, 3)], lambda x: tuple(L.eigh(_symmetric(x), "U")), lambda x: np.linalg.eigh(x + x.T, "U")),
    "eigvalsh": ([(3, 3)], lambda x: L.eigvalsh(_symmetric(x)), lambda x: np.linalg.eigvalsh(x + x.T)),
    "pinv": ([(4, 2)], L.pinv, np.linalg.pinv),
    "pinv-wide": ([(2, 2, 3)], L.pinv, np.linalg.pinv),
}
NORMS = {f"matrix_norm {ord}": ([(3, 2)], lambda x, ord=ord: L.matrix_norm(x, ord),
                                lambda x, ord=ord: np.linalg.norm(x, ord))
         for ord in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf)}
ALL = {**PRODUCTS, **FACTORISATIONS, **NORMS}


@pytest.mark.parametrize("name", ALL)
def test_values(name: str) -> None:
    shapes, ours, theirs = ALL[name]
    xs = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    found, expected = ours(*[from_numpy(x) for x in xs]), theirs(*xs)
    several = isinstance(found, tuple)
    for y, z in zip(found if several else (found,), expected if several else (expected,), strict=True):
        assert y.shape == np.shape(z)
        if name.startswith(("svd", "eigh")):  # which sign a vector has is the library's choice
            y, z = np.abs(y.numpy()), np.abs(z)
        np.testing.assert_allclose(np.asarray(y), z, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 2, 3)])
def test_factors_make_the_matrix_again(shape: tuple[int, ...]) -> None:
    x = numbers(*shape, seed=5)
    u, s, vh = L.svd(from_numpy(x), False)
    np.testing.assert_allclose(u.numpy() * s.numpy()[..., None, :] @ vh.numpy(), x, rtol=1e-9, atol=1e-12)
    square = x @ x.swapaxes(-1, -2)
    values, vectors = L.eigh(from_numpy(square))
    back = vectors.numpy() * values.numpy()[..., None, :] @ vectors.numpy().swapaxes(-1, -2)
    np.testing.assert_allclose(back, square, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_gradients(name: str) -> None:
    shapes, ours, _ = ALL[name]
    check(ours, *[numbers(*shape, seed=i) for i, shape in enumerate(shapes)])


@pytest.mark.parametrize("dim", [(0, 1), (2, 0), (-2, -1)], ids=str)
@pytest.mark.parametrize("ord", ["fro", "nuc", 1, 2, math.inf])
@pytest.mark.parametrize("keepdim", [False, True])
def test_matrix_norm_dims(dim: tuple[int, int], ord: Any, keepdim: bool) -> None:
    x = numbers(2, 3, 4)
    np.testing.assert_allclose(L.matrix_norm(from_numpy(x), ord, dim, keepdim).numpy(),
                               np.linalg.norm(x, ord, dim, keepdim))


@pytest.mark.parametrize("x", [[[1.0, 2.0], [2.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]], ids=str)
def test_det_of_singular_matrices(x: list[list[float]]) -> None:
    (a, b), (c, d) = x
    np.testing.assert_allclose(gradient(L.det, x), [[d, -c], [-b, a]], atol=1e-12)
    check(L.det, np.diag([1.0, 0.0, 2.0]), second=False)


def test_repeated_values_have_gradients_where_these_exist() -> None:
    np.testing.assert_allclose(gradient(lambda x: L.svdvals(x).sum(), np.eye(3)), np.eye(3))
    np.testing.assert_allclose(gradient(lambda x: L.eigvalsh(x).sum(), np.eye(3)), np.eye(3))
    check(lambda x: L.pinv(L.matmul(x, from_numpy(np.eye(3)))), np.eye(3))


def test_full_singular_vectors_have_no_gradient() -> None:
    x = leaf(numbers(3, 2))
    u, s, _ = L.svd(x)
    assert u.shape == (3, 3)
    s.sum().backward()
    assert x.grad is not None
    with pytest.raises(RuntimeError, match="full_matrices"):
        L.svd(leaf(numbers(3, 2))).U.sum().backward()
    with pytest.raises(RuntimeError, match="complete"):
        L.qr(leaf(numbers(3, 2)), "complete").Q.sum().backward()


def test_qr_of_mode_r() -> None:
    x = numbers(3, 2)
    q, r = L.qr(from_numpy(x), "r")
    assert q.shape == (0,)
    np.testing.assert_allclose(r.numpy(), np.linalg.qr(x, "r"))


def test_slogdet_names_its_parts() -> None:
    x = numbers(3, 3)
    found = L.slogdet(leaf(x))
    assert found.sign.item() == np.sign(np.linalg.det(x)) and found[1] is found.logabsdet


def test_addmm_with_beta_zero_ignores_nan() -> None:
    nan = from_numpy(np.full((2, 2), np.nan))
    eye = from_numpy(np.eye(2))
    assert L.addmm(nan, eye, eye, beta=0).numpy().tolist() == np.eye(2).tolist()


def test_products_of_strange_memory() -> None:
    """Stretched, reversed and transposed operands give what their copies give."""
    a, b = numbers(3, 1), numbers(4, 3).T
    wide = np.broadcast_to(a, (3, 3))
    np.testing.assert_allclose(L.matmul(wide, b), wide.copy() @ b.copy())
    np.testing.assert_allclose(L.matmul(wide[::-1], b[:, ::-1]), wide[::-1].copy() @ b[:, ::-1].copy())


def test_half_precision_is_summed_in_single() -> None:
    a = from_numpy(np.full((1, 4096), 1, np.float16))
    out = L.matmul(a, from_numpy(np.full((4096, 1), 1.001, np.float16)))
    assert out.dtype == np.float16 and out.item() == pytest.approx(4096 * float(np.float16(1.001)), rel=1e-3)


EINSUMS = [
    ("ij,jk->ik", [(2, 3), (3, 4)]), ("ij,jk", [(2, 3), (3, 4)]), ("ij->ji", [(2, 3)]), ("ji", [(2, 3)]),
    ("ii", [(3, 3)]), ("ii->i", [(3, 3)]), ("iij->ji", [(2, 2, 3)]), ("iii->i", [(2, 2, 2)]), ("ij->", [(2, 3)]),
    ("ij->i", [(2, 3)]), ("i,i->", [(3,), (3,)]), ("i,j->ij", [(2,), (3,)]), ("i,i->i", [(3,), (3,)]),
    ("bij,bjk->bik", [(2, 2, 3), (2, 3, 2)]), ("bij,bik->bjk", [(2, 2, 3), (2, 2, 2)]), ("ij,ij->", [(2, 3), (2, 3)]),
    ("...ij,...jk->...ik", [(2, 2, 3), (3, 2)]), ("...i,i", [(2, 2, 3), (3,)]), ("i...->...", [(2, 3)]),
    ("...,...->...", [(2, 1), (3,)]),
    ("a...b,b...->a...", [(2, 2, 3), (3, 1)]), ("ij,jk,kl->il", [(2, 3), (3, 2), (2, 2)]),
    ("ij,kj,lj->ikl", [(2, 2), (2, 2), (2, 2)]), ("i,ij,j->", [(2,), (2, 3), (3,)]), ("ij,k->k", [(2, 3), (2,)]),
    ("ij,ij,ij->ij", [(2, 3)] * 3), ("ij,jk->ki", [(1, 3), (3, 2)]), ("ij,ij->j", [(1, 3), (2, 3)]),
    ("ij,j->i", [(2, 1), (3,)]), ("aB,Bc", [(2, 3), (3, 2)]), (" i j , j -> i ", [(2, 3), (3,)]), ("->", [()]),
    (",i->i", [(), (3,)]), ("bhqd,bhkd->bhqk", [(1, 2, 2, 2), (1, 2, 3, 2)]), ("ijk->ik", [(2, 3, 2)]),
    ("ii,i->", [(2, 2), (2,)]), ("ij,ji->", [(2, 3), (3, 2)]), ("i,j,k->", [(2,), (3,), (2,)]),
]


@pytest.mark.parametrize(("equation", "shapes"), EINSUMS, ids=[equation for equation, _ in EINSUMS])
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    xs = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = np.einsum(equation, *xs)
    found = L.einsum(equation, *[from_numpy(x) for x in xs])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(L.einsum(equation, [from_numpy(x) for x in xs]).numpy(), expected, atol=1e-10)
    check(lambda *ts: L.einsum(equation, *ts), *xs)


WRONG_EINSUMS = ["ij,jk", "ijk", "i", "ij->k", "ij->ii", "i1", "..i..", "i...j...", "iij", "i->i->i"]


@pytest.mark.parametrize("equation", WRONG_EINSUMS)
def test_wrong_einsums(equation: str) -> None:
    with pytest.raises(RuntimeError, match="einsum"):
        L.einsum(equation, leaf(numbers(2, 3)))


def test_einsum_names_the_label_that_does_not_fit() -> None:
    with pytest.raises(RuntimeError, match=r"'j'.* 3 and 2"):
        L.einsum("ij,jk->ik", leaf(numbers(2, 3)), leaf(numbers(2, 3)))
    with pytest.raises(RuntimeError, match="no operands"):
        L.einsum("")


SINGULAR = np.ones((2, 2))
REFUSED: dict[str, Callable[[Any], Any]] = {
    "matmul sizes": lambda x: L.matmul(x, x), "matmul 0-d": lambda x: L.matmul(x, x[0, 0]),
    "matmul batches": lambda x: L.matmul(leaf(numbers(2, 2, 3)), leaf(numbers(3, 3, 2))),
    "matmul dtypes": lambda x: L.matmul(x, from_numpy(np.ones((3, 2), np.float32))),
    "mm": lambda x: L.mm(x, x[0]), "bmm": lambda x: L.bmm(x, x), "mv": lambda x: L.mv(x, x),
    "dot": lambda x: L.dot(x, x),
    "bmm batches": lambda x: L.bmm(leaf(numbers(1, 2, 3)), leaf(numbers(2, 3, 2))),
    "outer": lambda x: L.outer(x, x), "inner": lambda x: L.inner(x, S.t(x)), "trace": lambda x: L.trace(x[0]),
    "addmm": lambda x: L.addmm(leaf(numbers(4)), x, S.t(x)), "multi_dot": lambda x: L.multi_dot([x]),
    "cross": lambda x: L.cross(x, x, 0), "tensordot": lambda x: L.tensordot(x, x, 1),
    "tensordot dims": lambda x: L.tensordot(x, x, ([0], [0, 1])), "matrix_power": lambda x: L.matrix_power(x, 2),
    "inv": L.inv, "det": L.det, "slogdet": L.slogdet, "cholesky": L.cholesky, "eigh": L.eigh,
    "inv singular": lambda x: L.inv(leaf(SINGULAR)),
    "solve singular": lambda x: L.solve(leaf(SINGULAR), leaf([1.0, 1.0])),
    "cholesky indefinite": lambda x: L.cholesky(leaf(-np.eye(2))),
    "solve": lambda x: L.solve(leaf(np.eye(2)), leaf([1.0] * 3)),
    "integers": lambda x: L.inv(from_numpy(np.eye(2, dtype=int))), "qr mode": lambda x: L.qr(x, "full"),
    "eigh UPLO": lambda x: L.eigh(leaf(np.eye(2)), "X"), "matrix_norm": lambda x: L.matrix_norm(x, 3),
    "matrix_norm dims": lambda x: L.matrix_norm(x, dim=(0,)), "svd vector": lambda x: L.svd(x[0]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        REFUSED[name](leaf(numbers(2, 3)))
    assert caught.type is RuntimeError
