"""Complex tensors: values, gradients in torch's convention (conjugate Wirtinger derivatives), mixtures with reals."""

from __future__ import annotations

import pytest

from .both import Table, check, derivatives, leaf, raised

case = Table()

Z = [1.0 + 2.0j, -0.5 + 0.3j, 0.7 - 1.1j, -1.2 - 0.4j]
W = [0.3 - 0.6j, 1.4 + 0.2j, -0.8 + 0.9j, 0.5 + 1.3j]
R = [0.5, 1.5, -0.7, 2.0]
M = [[1.0 + 0.5j, 0.2 - 0.3j], [0.4 + 0.1j, 1.5 - 0.6j]]

UNARY = {name: (lambda lib, z, name=name: getattr(lib, name)(z)) for name in (
    "exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh", "acosh",
    "atanh",
    "square", "reciprocal", "rsqrt", "neg", "sigmoid", "log10", "log2", "log1p", "expm1", "exp2", "abs", "angle",
    "real",
    "imag", "conj", "sum", "mean", "prod", "view_as_real")}
UNARY |= {
    "pow 2": lambda lib, z: z ** 2, "pow 3": lambda lib, z: z ** 3, "pow 0.5": lambda lib, z: z ** 0.5, "pow -1":
    lambda lib, z: z ** -1, "pow complex": lambda lib, z: z ** (1 + 0.5j), "2 pow": lambda lib, z: 2 ** z, "times real":
    lambda lib, z: z * 3.0, "times i": lambda lib, z: z * 1j, "plus": lambda lib, z: z + (1 - 2j), "over": lambda lib,
    z:
    (2 - 1j) / z, "abs square": lambda lib, z: (z * z.conj()).real, "H": lambda lib, z: z.reshape(2, 2).H, "mT":
    lambda lib, z: z.reshape(2, 2).mT, "real imag": lambda lib, z: z.real * z.imag, "cumsum": lambda lib,
    z: z.cumsum(0),
    "cumprod": lambda lib, z: z.cumprod(0), "norm": lambda lib, z: z.norm(), "norm 1": lambda lib, z: z.norm(1),
    "index":
    lambda lib, z: z[lib.tensor([0, 0, 2])], "slice": lambda lib, z: z[1:] * 2, "to real parts": lambda lib, z:
    lib.view_as_real(z)[..., 1], "expand": lambda lib, z: z.expand(3, 4) * 2, "var": lambda lib, z: z.var(),
    "where of one":
    lambda lib, z: lib.where(z.real > 0, z, z * 2), "complex64": lambda lib, z: z.to(lib.complex64), "mean dim":
    lambda lib, z: z.reshape(2, 2).mean(0), "flip": lambda lib, z: z.flip(0) * 1j, "cat": lambda lib, z: lib.cat([z,
    z]),
    "stack": lambda lib, z: lib.stack([z, z * 1j]), "angle of square": lambda lib, z: (z * z).angle(),
    "log abs": lambda lib, z: z.abs().log(), "polar round trip": lambda lib, z: z.abs() * lib.exp(1j * z.angle()),
    "masked_fill": lambda lib, z: z.masked_fill(z.real > 0, 0.0), "in place": lambda lib, z: (z * 1).mul_(2j).add_(1),
    "write real part": lambda lib, z: _write(z * 1), "sign of": lambda lib, z: z / z.abs(),
}
BINARY = {
    "add": lambda lib, z, w: z + w, "sub": lambda lib, z, w: z - w, "mul": lambda lib, z, w: z * w, "div":
    lambda lib, z, w: z / w, "pow": lambda lib, z, w: z ** w, "matmul": lambda lib, z, w: z.reshape(2,
    2) @ w.reshape(2, 2),
    "dot": lambda lib, z, w: z @ w, "vdot": lambda lib, z, w: lib.vdot(z, w), "outer": lambda lib, z, w: lib.outer(z,
    w),
    "einsum": lambda lib, z, w: lib.einsum("i,j->ij", z, w), "einsum matrices": lambda lib, z, w:
    lib.einsum("ij,kj->ik", z.reshape(2, 2), w.reshape(2, 2)), "bmm": lambda lib, z, w:
    lib.bmm(z.reshape(1, 2, 2), w.reshape(1, 2, 2)), "broadcast": lambda lib, z, w: z[:, None] * w, "kron":
    lambda lib, z, w: lib.kron(z, w), "tensordot": lambda lib, z, w: lib.tensordot(z.reshape(2, 2), w.reshape(2, 2), 1),
    "conj mul": lambda lib, z, w: z.conj() * w, "abs of difference": lambda lib, z, w: (z - w).abs(),
    "where": lambda lib, z, w: lib.where(z.real > w.real, z, w), "addmm": lambda lib, z, w:
    lib.addmm(z.reshape(2, 2), z.reshape(2, 2), w.reshape(2, 2)),
}
LINALG = {
    "inv": lambda lib, m: lib.linalg.inv(m), "det": lambda lib, m: lib.linalg.det(m), "solve": lambda lib, m:
    lib.linalg.solve(m, m[0] * 2), "eigvalsh": lambda lib, m: lib.linalg.eigvalsh(m @ m.mH if hasattr(m, "mH") else
                                                                                m @ m.H), "svdvals": lambda lib, m:
    lib.linalg.svdvals(m), "cholesky": lambda lib, m: lib.linalg.cholesky(m @ m.H), "matrix_power": lambda lib, m:
    lib.linalg.matrix_power(m, 3), "trace": lambda lib, m: lib.trace(m), "pinv": lambda lib, m: lib.linalg.pinv(m),
    "slogdet": lambda lib, m: lib.linalg.slogdet(m)[1],
}


def _write(t):
    t.real.mul_(3)
    return t


def add(name, function, *values, dtypes=("complex128", "complex64")):
    for dtype in dtypes:
        case.add(f"{name}_{dtype}", lambda lib, dtype=dtype: derivatives(lib, function, *values, dtype=dtype))


for name, function in UNARY.items():
    add(name, function, Z)
    case.add(f"{name}_as_a_real_loss", lambda lib, f=function: _loss(lib, f, Z))
for name, function in BINARY.items():
    add(name, function, Z, W)
    case.add(f"{name}_of_real_and_complex", lambda lib, f=function: _mixed(lib, f, ("float64", "complex128")))
    case.add(f"{name}_complex_and_real", lambda lib, f=function: _mixed(lib, f, ("complex128", "float64")))
for name, function in LINALG.items():
    add(name, function, M, dtypes=("complex128",))
for name in ("abs", "angle", "sqrt", "log", "exp", "square", "reciprocal", "real", "sum"):
    add(f"{name}_at_zero", UNARY[name], [0j, 1.0 + 0j, -1.0 + 0j, 1j, -1j])


def _loss(lib, function, values):
    """A real loss, as a user has one: |f|^2."""
    z = leaf(lib, values, "complex128")
    y = function(lib, z)
    loss = (y.abs() ** 2).sum()
    loss.backward()
    return loss, z.grad


def _mixed(lib, function, dtypes):
    a = leaf(lib, R if dtypes[0] == "float64" else Z, dtypes[0])
    b = leaf(lib, R if dtypes[1] == "float64" else W, dtypes[1])
    try:
        y = function(lib, a, b)
    except RuntimeError:
        return "refused"
    weight = (lib.arange(y.numel()).to(y.dtype) * (0.3 + 0.1j if y.is_complex() else 0.3) + 0.5).reshape(tuple(y.shape))
    return y, lib.autograd.grad(y, [a, b], weight)


@case
def complex_from_parts(lib):
    re, im = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 4.0])
    z = lib.complex(re, im)
    (z * z * (1 + 2j)).abs().sum().backward()
    return z, re.grad, im.grad


@case
def view_as_complex(lib):
    x = leaf(lib, [[1.0, 2.0], [3.0, 4.0]])
    z = lib.view_as_complex(x)
    (z * z * 1j).real.sum().backward()
    return z, x.grad


@case
def real_leaf_in_a_complex_graph(lib):
    x = leaf(lib, [1.0, 2.0])
    y = (x * (1 + 2j)).exp()
    (y.abs() ** 2 + y.imag).sum().backward()
    return x.grad


@case
def gradient_of_a_complex_leaf_is_complex(lib):
    z = leaf(lib, Z, "complex64")
    z.abs().sum().backward()
    return z.grad, raised(lambda: z.sum().backward())


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
