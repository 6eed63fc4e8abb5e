"""numpy's functions on tensors: the values are numpy's, and the graph is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad.autograd import gradcheck

X = np.random.default_rng(0).uniform(0.2, 0.9, (3, 4))
Y = np.random.default_rng(1).uniform(0.2, 0.9, (3, 4))
V = X[0].copy()
SQUARE = X[:, :3] @ X[:, :3].T + np.eye(3)
CUBE = np.random.default_rng(2).uniform(0.2, 0.9, (2, 3, 4))

ONE = [np.absolute, np.arccos, np.arcsin, np.arcsinh, np.arctan, np.arctanh, np.conjugate, np.cos, np.cosh, np.deg2rad,
       np.degrees, np.exp, np.exp2, np.expm1, np.fabs, np.log, np.log10, np.log1p, np.log2, np.negative, np.positive,
       np.rad2deg, np.radians, np.reciprocal, np.sin, np.sinh, np.sqrt, np.square, np.tan, np.tanh]
TWO = [np.add, np.arctan2, np.copysign, np.divide, np.float_power, np.hypot, np.logaddexp, np.maximum, np.minimum,
       np.multiply, np.power, np.subtract]
CONSTANT = [np.ceil, np.floor, np.rint, np.sign, np.trunc, np.isfinite, np.isnan, np.isinf, np.logical_not]
COMPARING = [np.equal, np.not_equal, np.greater, np.greater_equal, np.less, np.less_equal, np.logical_and,
             np.logical_or, np.logical_xor]

# name: a call with an array in the tensor's place, for each that is differentiated.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    "sum": (lambda x: np.sum(x), X),
    "sum axis": (lambda x: np.sum(x, axis=0), X),
    "sum keepdims": (lambda x: np.sum(x, axis=(0, 1), keepdims=True), X),
    "nansum": (lambda x: np.nansum(x, axis=1), X),
    "mean": (lambda x: np.mean(x, 1), X),
    "var": (lambda x: np.var(x, axis=0), X),
    "var ddof": (lambda x: np.var(x, axis=0, ddof=1), X),
    "std": (lambda x: np.std(x), X),
    "prod": (lambda x: np.prod(x, axis=1), X),
    "prod axes": (lambda x: np.prod(x, axis=(0, -1)), CUBE),
    "prod all": (lambda x: np.prod(x, keepdims=True), X),
    "max": (lambda x: np.max(x, axis=0), X),
    "amin": (lambda x: np.amin(x, axis=(0, 1)), X),
    "ptp": (lambda x: np.ptp(x, axis=1), X),
    "cumsum": (lambda x: np.cumsum(x, axis=1), X),
    "cumsum flat": (lambda x: np.cumsum(x), X),
    "cumprod": (lambda x: np.cumprod(x, axis=0), X),
    "diff": (lambda x: np.diff(x, n=2, axis=1), X),
    "sort": (lambda x: np.sort(x, axis=0), X),
    "sort flat": (lambda x: np.sort(x, axis=None), X),
    "reshape": (lambda x: np.reshape(x, (2, 6)), X),
    "reshape flat": (lambda x: np.reshape(x, -1), X),
    "ravel": (lambda x: np.ravel(x), X),
    "transpose": (lambda x: np.transpose(x), CUBE),
    "transpose axes": (lambda x: np.transpose(x, (1, 0, 2)), CUBE),
    "swapaxes": (lambda x: np.swapaxes(x, 0, 2), CUBE),
    "moveaxis": (lambda x: np.moveaxis(x, 0, -1), CUBE),
    "matrix_transpose": (lambda x: np.matrix_transpose(x), CUBE),
    "expand_dims": (lambda x: np.expand_dims(x, (0, 3)), X),
    "squeeze": (lambda x: np.squeeze(x[None], axis=0), X),
    "broadcast_to": (lambda x: np.broadcast_to(x, (2, 3, 4)), X),
    "tile": (lambda x: np.tile(x, 2), X),
    "tile several": (lambda x: np.tile(x, (2, 1, 2)), X),
    "repeat": (lambda x: np.repeat(x, 2, axis=1), X),
    "repeat each": (lambda x: np.repeat(x, [1, 0, 2], axis=0), X),
    "flip": (lambda x: np.flip(x), X),
    "flip axis": (lambda x: np.flip(x, axis=1), X),
    "roll": (lambda x: np.roll(x, 1, axis=1), X),
    "roll flat": (lambda x: np.roll(x, 2), X),
    "rot90": (lambda x: np.rot90(x, k=3), X),
    "concatenate": (lambda x: np.concatenate([x, Y]), X),
    "concatenate flat": (lambda x: np.concatenate((Y, x), axis=None), X),
    "stack": (lambda x: np.stack([x, Y, x], axis=1), X),
    "vstack": (lambda x: np.vstack([x, Y]), X),
    "hstack": (lambda x: np.hstack([x, Y[0]]), V),
    "dstack": (lambda x: np.dstack([x, Y]), X),
    "column_stack": (lambda x: np.column_stack([x, x * 2]), V),
    "split": (lambda x: np.split(x, 2, axis=1)[1], X),
    "split at": (lambda x: np.split(x, [1, 3], axis=1)[1], X),
    "array_split": (lambda x: np.array_split(x, 3, axis=1)[0], X),
    "pad": (lambda x: np.pad(x, ((1, 0), (2, 3)), constant_values=5.0), X),
    "pad all": (lambda x: np.pad(x, 1), X),
    "copy": (lambda x: np.copy(x), X),
    "tril": (lambda x: np.tril(x, k=-1), X),
    "triu": (lambda x: np.triu(x), X),
    "diag": (lambda x: np.diag(x, k=1), V),
    "diagonal": (lambda x: np.diagonal(x, axis1=1, axis2=2), CUBE),
    "trace": (lambda x: np.trace(x), SQUARE),
    "where": (lambda x: np.where(Y > 0.5, x, Y), X),
    "where number": (lambda x: np.where(x > 0.5, x * x, 0.0), X),
    "clip": (lambda x: np.clip(x, 0.3, 0.7), X),
    "clip one": (lambda x: np.clip(x, min=0.5), X),
    "nan_to_num": (lambda x: np.nan_to_num(x), X),
    "take": (lambda x: np.take(x, [0, 2, 0], axis=1), X),
    "take flat": (lambda x: np.take(x, [[0, 7]]), X),
    "take_along_axis": (lambda x: np.take_along_axis(x, np.argsort(Y, axis=1), axis=1), X),
    "dot": (lambda x: np.dot(x, Y.T), X),
    "dot left": (lambda x: np.dot(Y.T, x), X),
    "dot vectors": (lambda x: np.dot(x, Y[0]), V),
    "dot number": (lambda x: np.dot(x, 2.0), V),
    "dot cube": (lambda x: np.dot(X, x), np.swapaxes(CUBE, 1, 2).copy()),
    "matmul": (lambda x: np.matmul(Y.T, x), X),
    "inner": (lambda x: np.inner(x, Y), X),
    "outer": (lambda x: np.outer(x, Y), X),
    "vdot": (lambda x: np.vdot(x, Y), X),
    "kron": (lambda x: np.kron(x, np.eye(2)), SQUARE),
    "cross": (lambda x: np.cross(x, Y[:, :3]), SQUARE),
    "tensordot": (lambda x: np.tensordot(x, Y, axes=([0], [0])), X),
    "tensordot number": (lambda x: np.tensordot(x, Y.T, axes=1), X),
    "einsum": (lambda x: np.einsum("ij,kj->ik", x, Y), X),
    "norm": (lambda x: np.linalg.norm(x), X),
    "norm axis": (lambda x: np.linalg.norm(x, axis=1, keepdims=True), X),
    "norm 1": (lambda x: np.linalg.norm(x, 1, axis=0), X),
    "norm matrix": (lambda x: np.linalg.norm(x, "nuc"), X),
    "norm matrices": (lambda x: np.linalg.norm(x, axis=(1, 2)), CUBE),
    "inv": (lambda x: np.linalg.inv(x), SQUARE),
    "det": (lambda x: np.linalg.det(x), SQUARE),
    "solve": (lambda x: np.linalg.solve(x, Y), SQUARE),
    "matrix_power": (lambda x: np.linalg.matrix_power(x, 3), SQUARE),
    "add.reduce": (lambda x: np.add.reduce(x), X),
    "multiply.reduce": (lambda x: np.multiply.reduce(x, axis=(0, 1)), X),
    "maximum.reduce": (lambda x: np.maximum.reduce(x, axis=1, keepdims=True), X),
    "add.accumulate": (lambda x: np.add.accumulate(x, axis=1), X),
    "subtract.outer": (lambda x: np.subtract.outer(x, Y[0]), X),
    "round": (lambda x: np.round(x, 1) + x, X),
}


def same(result: Any, expected: Any) -> None:
    assert isinstance(result, dg.Tensor), type(result)
    assert result.shape == np.shape(expected)
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("ufunc", ONE, ids=lambda f: f.__name__)
def test_ufuncs_of_one_tensor(ufunc: np.ufunc) -> None:
    t = dg.tensor(X, requires_grad=True)
    same(ufunc(t), ufunc(X))
    assert gradcheck(ufunc, t)


@pytest.mark.parametrize("ufunc", TWO, ids=lambda f: f.__name__)
def test_ufuncs_of_two_operands(ufunc: np.ufunc) -> None:
    t = dg.tensor(X, requires_grad=True)
    for call, expected in ((lambda x: ufunc(x, Y), ufunc(X, Y)), (lambda x: ufunc(Y, x), ufunc(Y, X)),
                           (lambda x: ufunc(x, 0.5), ufunc(X, 0.5)),
                           (lambda x: ufunc(x, Y.tolist()), ufunc(X, Y.astype(np.float32)))):
        same(call(t), expected)
        assert call(t).requires_grad
    assert gradcheck(lambda x: ufunc(x, dg.tensor(Y)), t)


@pytest.mark.parametrize("ufunc", CONSTANT, ids=lambda f: f.__name__)
def test_ufuncs_without_gradient(ufunc: np.ufunc) -> None:
    same(ufunc(dg.tensor(X)), ufunc(X))


@pytest.mark.parametrize("ufunc", COMPARING, ids=lambda f: f.__name__)
def test_comparisons(ufunc: np.ufunc) -> None:
    same(ufunc(dg.tensor(X), Y), ufunc(X, Y))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    call, values = FUNCTIONS[name]
    t = dg.tensor(values, requires_grad=True)
    same(call(t), call(values))
    if name != "round":
        assert gradcheck(call, t)


def test_results_that_have_no_gradient() -> None:
    t = dg.tensor(X, requires_grad=True)
    for call in (lambda x: np.argmax(x, axis=1), lambda x: np.argmin(x), lambda x: np.any(x > 0.5, axis=0),
                 lambda x: np.all(x > 0), lambda x: np.argsort(x, axis=0), lambda x: np.count_nonzero(x > 0.5),
                 lambda x: np.zeros_like(x), lambda x: np.ones_like(x), lambda x: np.full_like(x, 3.0)):
        same(call(t), call(X))
    assert np.shape(t) == (3, 4) and np.ndim(t) == 2 and np.size(t) == 12
    assert np.allclose(t, X) and np.array_equal(t, X) and not np.isclose(t, X + 1).any()
    rows, columns = np.nonzero(dg.tensor([[0.0, 2.0]]))
    assert rows.tolist() == [0] and columns.tolist() == [1]
    assert np.where(t > 0.5)[0].tolist() == np.where(X > 0.5)[0].tolist()


def test_means_of_integers_are_floating() -> None:
    t = dg.arange(4)
    assert np.mean(t).item() == 1.5 and np.std(t).item() == pytest.approx(np.std(np.arange(4)))


def test_array_on_the_left_gives_a_tensor() -> None:
    t = dg.tensor(X, requires_grad=True)
    for result, expected in ((Y + t, Y + X), (Y - t, Y - X), (Y * t, Y * X), (Y / t, Y / X), (Y**t, Y**X),
                             (Y.T @ t, Y.T @ X), (np.float64(2) * t, 2 * X), (2.0 / t, 2.0 / X)):
        same(result, expected)
        assert result.requires_grad
    same(t > Y, X > Y)
    same(Y > t, Y > X)
    (Y * t).sum().backward()
    np.testing.assert_array_equal(t.grad, Y)


def test_asarray_shares_memory_unless_a_gradient_is_wanted() -> None:
    t = dg.tensor(X)
    np.asarray(t)[0, 0] = 7.0
    assert t[0, 0].item() == 7.0
    assert np.array(t) is not t.array and np.array(t, copy=True).base is None
    with pytest.raises(RuntimeError, match="detach"):
        np.asarray(t.requires_grad_())


def test_what_no_operation_does_sees_the_array_or_is_refused() -> None:
    t = dg.tensor(X)
    counts, _ = np.histogram(t, bins=3)
    assert counts.sum() == 12
    np.testing.assert_allclose(np.cbrt(t), np.cbrt(X))
    np.testing.assert_allclose(np.median(t, axis=0), np.median(X, axis=0))
    t.requires_grad_()
    for call, name in ((lambda: np.median(t), "np.median"), (lambda: np.cbrt(t), "np.cbrt"),
                       (lambda: np.add.reduceat(t, [0, 1]), "np.add.reduceat"),
                       (lambda: np.linalg.eig(t[:, :3]), "np.linalg.eig"),
                       (lambda: np.interp(t, [0, 1], [1, 2]), "np.interp"),
                       (lambda: np.add(t, 1, where=Y > 0.5), "np.add")):
        with pytest.raises(TypeError, match=rf"{name} .*detach\(\)\.numpy\(\)"):
            call()


def test_out_is_refused() -> None:
    t = dg.tensor(X, requires_grad=True)
    plain = dg.tensor(X)
    with pytest.raises(TypeError, match="out="):
        np.exp(X, out=plain)
    with pytest.raises(TypeError, match="out="):
        np.exp(t, out=X.copy())
    with pytest.raises(TypeError, match="out="):
        np.sum(t, axis=0, out=np.empty(4))
    array = X.copy()
    with pytest.raises(TypeError, match="out="):
        array += t
    array += plain  # nothing is lost: no gradient is wanted
    np.testing.assert_array_equal(array, 2 * X)


def test_arguments_that_are_not_taken_are_named() -> None:
    t = dg.tensor(X, requires_grad=True)
    with pytest.raises(TypeError, match="order"):
        np.reshape(t, (2, 6), order="F")
    with pytest.raises(TypeError, match="where"):
        np.sum(t, where=Y > 0.5)
    with pytest.raises(TypeError, match="mode"):
        np.pad(t, 1, mode="reflect")
    with pytest.raises(ValueError, match="multiple"):
        np.split(t, 3, axis=1)
    with pytest.raises(ValueError, match="size 1"):
        np.squeeze(t, axis=0)


def test_other_array_types_get_their_turn() -> None:
    class Foreign:
        def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> str:
            return "foreign"

        def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> str:
            return "foreign"

    assert np.add(dg.ones(2), Foreign()) == "foreign"
    assert np.concatenate([dg.ones(2), Foreign()]) == "foreign"


def test_parameters_take_part() -> None:
    p = dg.nn.Parameter(dg.tensor(X))
    np.sum(np.tanh(p) * Y).backward()
    np.testing.assert_allclose(p.grad, Y * (1 - np.tanh(X) ** 2))
