"""Where naive gradients go wrong: zeros, ties, bounds, infinities, empty and overlapping memory.

Each case gives the value, the gradient and the gradient of the gradient, in float64 and float32.
"""

from __future__ import annotations

import math

import pytest

from .both import Table, check, derivatives

case = Table()

INF, NAN = math.inf, math.nan
POINTS = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, INF, -INF, NAN]
FINITE = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0]


def add(name, function, *values, second=True):
    for dtype in ("float64", "float32"):
        case.add(f"{name}_{dtype}", lambda lib, dtype=dtype: derivatives(lib, function, *values, dtype=dtype,
                                                                         second=second))


for name in ("relu", "abs", "sqrt", "log", "exp", "sigmoid", "tanh", "sign", "floor", "ceil", "round", "trunc", "frac",
             "reciprocal", "rsqrt", "square", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh",
             "acosh", "atanh", "log1p", "expm1", "log2", "log10", "exp2", "erf", "erfc", "erfinv", "lgamma", "digamma",
             "neg"):
    add(f"{name}_at_its_edges", lambda lib, x, name=name: getattr(x, name)(), POINTS, second=False)
    add(f"{name}_twice", lambda lib, x, name=name: getattr(x, name)(), FINITE)

for name in ("gelu", "silu", "softplus", "leaky_relu", "elu", "selu", "celu", "hardtanh", "relu6", "hardsigmoid",
             "hardswish", "logsigmoid", "softsign", "tanhshrink", "mish", "softshrink", "hardshrink"):
    add(f"{name}_at_its_edges", lambda lib, x, name=name: getattr(lib.nn.functional, name)(x),
        [0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 30.0, -30.0, 0.5, -0.5, 100.0, -100.0])

GRID = [[a, b] for a in (0.0, 1.0, 2.0, -1.0, -2.0) for b in (0.0, 1.0, 2.0, -1.0, 0.5, 3.0)]
for name, function in {
    "pow": lambda lib, x, y: x ** y, "mul": lambda lib, x, y: x * y, "div": lambda lib, x, y: x / y,
    "maximum": lambda lib, x, y: lib.maximum(x, y), "minimum": lambda lib, x, y: lib.minimum(x, y),
    "atan2": lambda lib, x, y: lib.atan2(x, y), "hypot": lambda lib, x, y: lib.hypot(x, y), "xlogy":
    lambda lib, x, y: lib.xlogy(x, y), "logaddexp": lambda lib, x, y: lib.logaddexp(x, y), "copysign":
    lambda lib, x, y: lib.copysign(x, y), "remainder": lambda lib, x, y: lib.remainder(x, y), "fmod":
    lambda lib, x, y: lib.fmod(x, y), "clamp_low": lambda lib, x, y: lib.clamp(x, min=y), "clamp_high":
    lambda lib, x, y: lib.clamp(x, max=y), "where": lambda lib, x, y: lib.where(x > y, x, y),
}.items():
    add(f"{name}_on_a_grid", function, [a for a, _ in GRID], [b for _, b in GRID])

for exponent in (0, 1, 2, 3, -1, -2, 0.5, -0.5, 2.5, 0.0, 1.0):
    add(f"x_pow_{exponent!r}", lambda lib, x, n=exponent: x ** n, FINITE)
for base in (0, 1, 2, 0.5, -1.0, 0.0):
    add(f"{base!r}_pow_x", lambda lib, x, n=base: n ** x, FINITE)

TIES = [[1.0, 3.0, 3.0, 2.0], [3.0, 3.0, 3.0, 3.0], [-1.0, -1.0, -2.0, 0.0]]
for name, function in {
    "max": lambda lib, x: x.max(), "min": lambda lib, x: x.min(), "max_dim": lambda lib, x: x.max(1)[0], "min_dim":
    lambda lib, x: x.min(0)[0], "amax": lambda lib, x: x.amax(1), "amin": lambda lib, x: x.amin(0), "amax_all":
    lambda lib, x: x.amax(), "median": lambda lib, x: x.median(), "median_dim": lambda lib, x: x.median(1)[0],
    "sort": lambda lib, x: lib.sort(x, dim=1, stable=True)[0], "topk": lambda lib, x: x[:, :3].topk(2, 1)[0], "aminmax":
    lambda lib, x: lib.stack(list(lib.aminmax(x))), "kthvalue": lambda lib, x: lib.kthvalue(x, 2, 1)[0], "argmax":
    lambda lib, x: x.argmax(1), "amax_dims": lambda lib, x: x.amax((0, 1)), "max_keepdim": lambda lib, x:
    x.max(1, keepdim=True)[0],
}.items():
    add(f"ties_in_{name}", function, TIES)

for p in (0, 1, 2, 3, 0.5, 1.5, INF, -INF):
    for name, values in {"zero": [0.0, 0.0], "one_zero": [0.0, 3.0], "ties": [2.0, -2.0], "plain": [3.0, -4.0]}.items():
        add(f"norm_{p}_of_{name}", lambda lib, x, p=p: x.norm(p), values)
add("norm_of_rows", lambda lib, x: x.norm(2, 1), [[0.0, 0.0], [3.0, 4.0]])
add("norm_frobenius", lambda lib, x: x.norm(), [[0.0, 0.0], [0.0, 0.0]])

for name, values in {"plain": [2.0, 3.0, 4.0], "one_zero": [2.0, 0.0, 4.0], "two_zeros": [0.0, 3.0, 0.0],
                     "all_zeros": [0.0, 0.0], "single": [0.0], "negative": [-1.0, 2.0, -3.0]}.items():
    add(f"prod_{name}", lambda lib, x: x.prod(), values)
    add(f"prod_dim_{name}", lambda lib, x: x.prod(0), values)
    add(f"cumprod_{name}", lambda lib, x: x.cumprod(0), values)
    add(f"cumsum_{name}", lambda lib, x: x.cumsum(0), values)
    add(f"var_{name}", lambda lib, x: x.var(), values)
    add(f"var_biased_{name}", lambda lib, x: x.var(correction=0), values)
    add(f"std_{name}", lambda lib, x: x.std(), values)
add("std_of_equal_values", lambda lib, x: x.std(), [2.0, 2.0, 2.0])
add("std_of_rows", lambda lib, x: x.std(1), [[2.0, 2.0], [1.0, 3.0]])

ROWS = {"plain": [[1.0, 2.0, 3.0]], "minus_inf": [[-INF, 1.0, 2.0]], "all_minus_inf": [[-INF, -INF, -INF]],
        "plus_inf": [[INF, 1.0, 2.0]], "nan": [[NAN, 1.0, 2.0]], "large": [[1000.0, 0.0, -1000.0]],
        "equal": [[5.0, 5.0, 5.0]], "single": [[3.0]]}
for name, values in ROWS.items():
    for op in ("softmax", "log_softmax", "logsumexp", "cumsum", "logcumsumexp"):
        add(f"{op}_of_row_{name}", lambda lib, x, op=op: getattr(lib, op)(x, 1), values, second=name in ("plain",
        "large",
                                                                                              "equal", "single"))
    add(f"nansum_{name}", lambda lib, x: lib.nansum(x), values, second=False)
    add(f"max_{name}", lambda lib, x: x.max(), values, second=False)
    add(f"amax_{name}", lambda lib, x: x.amax(1), values, second=False)
    add(f"sort_{name}", lambda lib, x: x.sort(1)[0], values, second=False)

for name, function in {
    "both": lambda lib, x: x.clamp(-1, 1), "low": lambda lib, x: x.clamp(min=0), "high": lambda lib, x: x.clamp(max=1),
    "crossed": lambda lib, x: x.clamp(1, -1), "equal": lambda lib, x: x.clamp(1, 1),
}.items():
    add(f"clamp_{name}", function, POINTS, second=False)
add("clamp_tensors", lambda lib, x, a, b: lib.clamp(x, a, b), [-2.0, 0.0, 1.0, 2.0, 0.5], [-1.0, 0.0, 1.0, 3.0, 1.0],
    [1.0, 0.0, 1.0, 1.0, 0.0])

add("where_keeps_nan_out", lambda lib, x: lib.where(x > 0, x.sqrt(), lib.zeros_like(x)), [0.0, 4.0, -1.0])
add("where_inside_sqrt", lambda lib, x: lib.where(x > 0, x, lib.ones_like(x)).sqrt(), [0.0, 4.0, -1.0])
add("where_log", lambda lib, x: lib.where(x > 0, x.log(), x * 2), [0.0, 4.0, -1.0])
add("where_nan_elsewhere", lambda lib, x: lib.where(x == x, x, lib.zeros_like(x)) * 2, [NAN, 4.0, INF])
add("masked_fill_nan", lambda lib, x: x.masked_fill(x != x, 0.0) ** 2, [NAN, 4.0, 1.0])
add("masked_select", lambda lib, x: x[x > 0] ** 2, [-1.0, 4.0, 0.0, 2.0])
add("index_twice", lambda lib, x: x[lib.tensor([0, 0, 2])] ** 2, [1.0, 2.0, 3.0])
add("negative_index", lambda lib, x: x[lib.tensor([-1, 0, -1])] ** 2, [1.0, 2.0, 3.0])
add("gather_twice", lambda lib, x: lib.gather(x, 0, lib.tensor([1, 1, 1, 0])) ** 2, [1.0, 2.0, 3.0])
add("scatter_add_twice", lambda lib, x, s: lib.scatter_add(x, 0, lib.tensor([1, 1, 0]), s) ** 2, [1.0, 2.0, 3.0],
    [4.0, 5.0, 6.0])
add("scatter", lambda lib, x, s: lib.scatter(x, 0, lib.tensor([2, 0]), s) ** 2, [1.0, 2.0, 3.0], [4.0, 5.0])
add("index_add", lambda lib, x, s: lib.index_add(x, 0, lib.tensor([1, 1, 0]), s) ** 2, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
for accumulate in (False, True):
    add(f"index_put_{accumulate}", lambda lib, x, s, a=accumulate: (x * 1).index_put_(
        (lib.tensor([0, 2] if not a else [0, 0]),), s, accumulate=a) ** 2, [1.0, 2.0, 3.0], [4.0, 5.0])
add("take", lambda lib, x: lib.take(x, lib.tensor([0, 3, 3])) ** 2, [[1.0, 2.0], [3.0, 4.0]])
add("embedding_twice", lambda lib, w: lib.nn.functional.embedding(lib.tensor([0, 2, 0]), w) ** 2,
    [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

EMPTY = {"sum": lambda lib, x: x.sum(), "prod": lambda lib, x: x.prod(), "mean": lambda lib, x: x.mean(), "exp":
         lambda lib, x: x.exp(), "matmul": lambda lib, x: x @ lib.ones(0, 2,
         dtype=x.dtype) if x.dim() == 2 else x.sum(),
         "reshape": lambda lib, x: x.reshape(0, 1), "cat": lambda lib, x: lib.cat([x, x]), "mul": lambda lib, x: x * x,
         "sum_dim": lambda lib, x: x.sum(0), "softmax": lambda lib, x: x.softmax(0), "cumsum": lambda lib, x:
         x.cumsum(0), "index": lambda lib, x: x[:0], "norm": lambda lib, x: x.norm(), "var": lambda lib, x: x.var(),
         "sort": lambda lib, x: x.sort()[0], "max": lambda lib, x: x.max(), "amax_kept": lambda lib, x: x.amax(1)
         if x.dim() == 2 else x.sum(), "logsumexp": lambda lib, x: x.logsumexp(0), "all": lambda lib, x: x.all(), "any":
         lambda lib, x: x.any(), "argmax": lambda lib, x: x.argmax(), "median": lambda lib, x: x.median(),
         "mean_dim": lambda lib, x: x.mean(0), "prod_dim": lambda lib, x: x.prod(0), "flip": lambda lib, x: x.flip(0)}
for name, function in EMPTY.items():
    case.add(f"empty_{name}", lambda lib, f=function: derivatives(lib, f, []))
    case.add(f"empty_two_dims_{name}", lambda lib, f=function: _shaped(lib, f, (3, 0)))
    case.add(f"scalar_{name}", lambda lib, f=function: derivatives(lib, f, 2.0))


def _shaped(lib, function, shape):
    x = lib.ones(*shape, dtype=lib.float64, requires_grad=True)
    y = function(lib, x)
    return y, lib.autograd.grad(y.sum(), x) if y.requires_grad else None


ORDERS = {
    "fortran": lambda lib, x: x.t(), "strided": lambda lib, x: x[:, ::2], "expanded": lambda lib, x:
    x[:1].expand(3, 4), "row_expanded": lambda lib, x: x[:, :1].expand(3, 4), "flipped": lambda lib, x: x.flip(0),
    "unfolded": lambda lib, x: x.unfold(1, 2, 1), "permuted": lambda lib, x: x[None].permute(2, 0, 1), "diagonal":
    lambda lib, x: x.diagonal(), "narrow": lambda lib, x: x.narrow(1, 1, 2), "broadcast": lambda lib, x: x + x[:1],
    "size_one": lambda lib, x: x[:, :1] * x[:1],
}
USES = {
    "sum": lambda lib, x: x.sum(), "mul": lambda lib, x: x * x, "reshape": lambda lib, x: x.reshape(-1) ** 2, "exp":
    lambda lib, x: x.exp(), "cumsum": lambda lib, x: x.cumsum(0) ** 2, "clone": lambda lib, x: x.clone() ** 2,
    "contiguous": lambda lib, x: x.contiguous() ** 2, "max": lambda lib, x: x.amax(0), "cat": lambda lib, x:
    lib.cat([x, x * 2]), "softmax": lambda lib, x: x.softmax(-1), "mean": lambda lib, x: x.mean(-1) ** 2, "var":
    lambda lib, x: x.var(-1), "getitem": lambda lib, x: x[..., 0] ** 2, "prod": lambda lib, x: x.prod(0), "matmul":
    lambda lib, x: x.reshape(x.shape[0], -1) @ x.reshape(x.shape[0], -1).t(), "sort": lambda lib, x: x.sort(-1)[0],
}
for order_name, order in ORDERS.items():
    for use_name, use in USES.items():
        case.add(f"{use_name}_of_{order_name}", lambda lib, o=order, u=use: derivatives(
            lib, lambda lib, x: u(lib, o(lib, x)), [[0.3, 1.2, -0.4, 2.0], [1.1, -0.7, 0.9, 0.2], [0.5, 1.6, -1.3,
            0.8]]))

for name, function in {
    "svd": lambda lib, x: lib.linalg.svdvals(x), "eigh": lambda lib, x: lib.linalg.eigvalsh(x @ x.T),
    "det": lambda lib, x: lib.det(x), "inv": lambda lib, x: lib.linalg.inv(x), "slogdet": lambda lib, x:
    lib.linalg.slogdet(x)[1], "solve": lambda lib, x: lib.linalg.solve(x, x[0]), "nuclear": lambda lib, x:
    lib.linalg.matrix_norm(x, "nuc"),
}.items():
    add(f"{name}_repeated_values", function, [[2.0, 0.0], [0.0, 2.0]], second=False)
    add(f"{name}_singular", function, [[1.0, 2.0], [2.0, 4.0]], second=False)


@pytest.mark.parametrize(("name", "function"), list(case))
def test_parity(name, function):
    check(name, function)
