"""Type promotion: every pair of dtypes, with dimensions and without, and Python numbers; values and dtypes."""

from __future__ import annotations

import pytest

from .both import Table, check, kind, run, torch
from .deliberate import LENIENT

case = Table()

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64",
          "complex128")
NUMBERS = (True, 2, 2.5, 1 + 2j)
ARITHMETIC = {
    "add": lambda lib, a, b: a + b, "mul": lambda lib, a, b: a * b, "sub": lambda lib, a, b: a - b,
    "div": lambda lib, a, b: a / b, "pow": lambda lib, a, b: a ** b, "floor_divide": lambda lib, a, b: a // b,
    "remainder": lambda lib, a, b: a % b, "maximum": lambda lib, a, b: lib.maximum(a, b), "where": lambda lib, a, b:
    lib.where(lib.tensor([True, False]), a, b), "atan2": lambda lib, a, b: lib.atan2(a, b),
}
COMPARISONS = {
    "eq": lambda lib, a, b: a == b, "ne": lambda lib, a, b: a != b, "lt": lambda lib, a, b: a < b,
    "ge": lambda lib, a, b: a >= b, "logical_and": lambda lib, a, b: lib.logical_and(a, b),
    "bitwise_and": lambda lib, a, b: a & b,
}
UNARY = ("abs", "neg", "exp", "log", "sqrt", "sin", "tanh", "sigmoid", "relu", "floor", "ceil", "round", "sign",
    "square",
         "reciprocal", "erf", "isnan", "isfinite", "logical_not", "bitwise_not", "conj", "cumsum", "cumprod", "sum",
         "mean",
         "prod", "max", "min", "argmax", "var", "std", "all", "any", "norm", "softmax", "logsumexp", "angle", "sort",
         "trunc", "frac", "expm1", "log1p", "rsqrt", "amax", "nansum", "count_nonzero", "median", "clamp")


def value(function, *args):
    """A result, or the type of what was raised."""
    try:
        return function(*args)
    except Exception as error:
        return kind(error)


def made(lib, dtype, dims, number):
    return lib.tensor([number, 2 * number] if dims else number).to(getattr(lib, dtype))


def _pairs(op, a, dims_a, dims_b):
    return lambda lib: {b: value(op, lib, made(lib, a, dims_a, 1), made(lib, b, dims_b, 2)) for b in DTYPES}


def _numbers(op, a, dims):
    def run(lib):
        t = made(lib, a, dims, 1)
        return {(repr(n), side): value(op, lib, *((t, n) if side == "right" else (n, t))) for n in NUMBERS
                for side in ("left", "right")}
    return run


for op_name, op in {**ARITHMETIC, **COMPARISONS}.items():
    for a in DTYPES:
        for dims_a, dims_b in ((1, 1), (1, 0), (0, 1), (0, 0)):
            case.add(f"{op_name}_{a}_{dims_a}d_{dims_b}d", _pairs(op, a, dims_a, dims_b))
        for dims in (1, 0):
            if op_name not in ("maximum", "atan2", "logical_and"):
                case.add(f"{op_name}_{a}_{dims}d_number", _numbers(op, a, dims))

for name in UNARY:
    def _unary(lib, name=name):
        arguments = {"cumsum": (0,), "cumprod": (0,), "softmax": (0,), "logsumexp": (0,), "clamp": (0, 1),
                     "amax": (0,)}.get(name, ())
        pick = {"sort": lambda r: list(r)}.get(name, lambda r: r)
        return {d: value(lambda d=d: pick(getattr(lib.tensor([1, 0, 2]).to(getattr(lib, d)), name)(*arguments)))
                for d in DTYPES}
    case.add(f"unary_{name}", _unary)


def _where_torch_computes(name, lib_result, torch_result):
    """Without the pairs that torch refuses, for the operations that `deliberate.py` lists."""
    op = next((op for op in LENIENT if name == op or name.startswith(op + "_")), None)
    return lib_result if op is None else {key: x for key, x in lib_result.items()
                                          if torch_result[key] != "RuntimeError"}


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    by_torch = run(function, torch)
    check(name, lambda lib: _where_torch_computes(name, by_torch if lib is torch else run(function, lib), by_torch),
          given=True)
