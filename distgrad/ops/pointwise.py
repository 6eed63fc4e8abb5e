"""Elementwise ops: one row each, with its kernel and its derivative.

Derivatives run on raw arrays and on tensors alike, so they use operators and the ops of this table.
Edges (ties, zeros, infinities) follow torch; see the comment at each.
"""

from __future__ import annotations

import math
from typing import Any

from ..backend import of
from ..graph.base import TensorBase, new_like
from ..graph.function import Function
from ._declare import MINUS_ONE, NUMBERS, ONE, ZERO, binary, compare, unary
from .select import where

__all__ = [
    "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "bitwise_and", "bitwise_not",
    "bitwise_or", "bitwise_xor", "ceil", "copysign", "cos", "cosh", "digamma", "direction", "div", "eq", "erf", "erfc",
    "erfinv", "exp", "exp2", "expm1", "floor", "floor_divide", "fmod", "frac", "ge", "gelu", "gt", "hypot", "isfinite",
    "isinf",
    "isnan", "le", "leaky_relu", "lgamma", "log", "log10", "log1p", "log2", "log_sigmoid", "logaddexp", "logical_and",
    "logical_not", "logical_or", "logical_xor", "lt", "maximum", "minimum", "mul", "ne", "neg", "pow", "reciprocal",
    "relu", "remainder", "round", "rsqrt", "sigmoid", "sign", "silu", "sin", "sinh", "softplus", "sqrt", "square",
    "sub", "tan", "tanh", "trunc", "xlogy",
]

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBE = 0.044715

# -- arithmetic

add = binary("add", "add", da=ONE, db=ONE)
sub = binary("sub", "subtract", da=ONE, db=MINUS_ONE)
mul = binary("mul", "multiply", da=lambda b: b, db=lambda a: a)
div = binary("div", "true_divide", da=lambda b: 1 / b, db=lambda a, b: -(a / b) / b, floating=True)
neg = unary("neg", "negative", d=MINUS_ONE, floating=False)
square = unary("square", lambda xp, x: x * x if x.dtype.kind != "b" else x.astype("int64"), d=lambda x: 2 * x,
    floating=False)
reciprocal = unary("reciprocal", lambda xp, x: 1 / x, d=lambda y: -y * y)


def _pow_da(a: Any, b: Any) -> Any:
    """b * a ** (b - 1), and 0 where b is 0 even if a is (there 0 * inf would be NaN)."""
    if isinstance(b, NUMBERS):
        return 0.0 if b == 0 else (2 * a if b == 2 else b * a ** (b - 1))
    return where(b == 0, 0.0, b * a ** where(b == 0, 1.0, b - 1))


def _pow_db(a: Any, b: Any, y: Any) -> Any:
    """y * log(a), and 0 where a is 0 and b is not negative."""
    if isinstance(a, NUMBERS):
        if a == 0:
            return where(b >= 0, 0.0, y * -math.inf)
        return y * (math.log(a) if not isinstance(a, complex) and a > 0 else _log_of_number(a))
    at_zero = (a == 0) & (b >= 0)
    return where(at_zero, 0.0, y * log(where(at_zero, 1.0, a)))


def _log_of_number(a: complex) -> complex:
    """The logarithm of a number that is not positive: NaN when real, as torch has it."""
    if not isinstance(a, complex):
        return math.nan
    import cmath

    return cmath.log(a)


pow = binary("pow", lambda xp, a, b: a ** b, da=_pow_da, db=_pow_db)
pow.public = {"a": "self", "b": "exponent", "y": "result"}

# -- exponentials and logarithms

exp = unary("exp", "exp", d=lambda y: y)
exp2 = unary("exp2", "exp2", d=lambda y: y * math.log(2))
expm1 = unary("expm1", "expm1", d=lambda y: y + 1)
log = unary("log", "log", d=lambda x: 1 / x)
log2 = unary("log2", "log2", d=lambda x: 1 / (x * math.log(2)))
log10 = unary("log10", "log10", d=lambda x: 1 / (x * math.log(10)))
log1p = unary("log1p", "log1p", d=lambda x: 1 / (x + 1))
sqrt = unary("sqrt", "sqrt", d=lambda y: 0.5 / y)
rsqrt = unary("rsqrt", lambda xp, x: 1 / xp.sqrt(x), d=lambda y: -0.5 * y * y * y)
logaddexp = binary("logaddexp", "logaddexp", da=lambda a, y: exp(a - y), db=lambda b, y: exp(b - y), floating=True)

# -- trigonometry

sin = unary("sin", "sin", d=lambda x: cos(x))
cos = unary("cos", "cos", d=lambda x: -sin(x))
tan = unary("tan", "tan", d=lambda y: 1 + y * y)
asin = unary("asin", "arcsin", d=lambda x: rsqrt(1 - x * x))
acos = unary("acos", "arccos", d=lambda x: -rsqrt(1 - x * x))
atan = unary("atan", "arctan", d=lambda x: 1 / (1 + x * x))
sinh = unary("sinh", "sinh", d=lambda x: cosh(x))
cosh = unary("cosh", "cosh", d=lambda x: sinh(x))
tanh = unary("tanh", "tanh", d=lambda y: 1 - y * y)
asinh = unary("asinh", "arcsinh", d=lambda x: rsqrt(x * x + 1))
acosh = unary("acosh", "arccosh", d=lambda x: rsqrt(x - 1) * rsqrt(x + 1) if x.dtype.kind == "c" else rsqrt(x * x - 1))
atanh = unary("atanh", "arctanh", d=lambda x: 1 / (1 - x * x))
atan2 = binary("atan2", "arctan2", da=lambda a, b: b / _not_zero(a * a + b * b),
               db=lambda a, b: -a / _not_zero(a * a + b * b),
               floating=True)


def _not_zero(x: Any) -> Any:
    """A divisor under a numerator that is 0 where this is."""
    return where(x == 0, 1.0, x)


hypot = binary("hypot", "hypot", da=lambda a, y: a / y, db=lambda b, y: b / y, floating=True)

# -- special functions

erf = unary("erf", "kernels.erf", d=lambda x: exp(-x * x) * (2 / math.sqrt(math.pi)))
erfc = unary("erfc", "special.erfc", d=lambda x: exp(-x * x) * (-2 / math.sqrt(math.pi)))
erfinv = unary("erfinv", "special.erfinv", d=lambda y: exp(y * y) * (math.sqrt(math.pi) / 2))
lgamma = unary("lgamma", "special.gammaln", d=lambda x: digamma(x))
digamma = unary("digamma", "special.psi", d=lambda x: _Polygamma.apply(x, order=1))
xlogy = binary("xlogy", "special.xlogy", da=lambda a, b: where((a == 0) & (b <= 0), 0.0, log(b)),
               db=lambda a, b: a / b, floating=True)


class _Polygamma(Function):
    """The derivative of this order of digamma."""

    name = "Polygamma"

    def forward(ctx: Any, x: Any, order: int) -> Any:
        ctx.save(x)
        ctx.order = order
        return of(x).xp.asarray(of(x).special.polygamma(order, x)).astype(x.dtype)

    def vjp(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved
        return g * _Polygamma.apply(x, order=ctx.order + 1)


# -- activations

relu = unary("relu", "kernels.relu", d=lambda y: logical_not(y <= 0), floating=False)
sigmoid = unary("sigmoid", "kernels.sigmoid", d=lambda y: y * (1 - y))
silu = unary("silu", "kernels.silu", d=lambda x: _silu_slope(x, sigmoid(x)))
log_sigmoid = unary("log_sigmoid", "kernels.log_sigmoid", d=lambda x: sigmoid(-x))
_gelu_erf = unary("gelu", "kernels.gelu", d=lambda x: _normal_cdf(x) + x * exp(x * x * -0.5) * _INV_SQRT_2PI)
_gelu_tanh = unary("gelu", "kernels.gelu_tanh", d=lambda x: _gelu_tanh_slope(x))


def _silu_slope(x: Any, s: Any) -> Any:
    return s * (1 + x * (1 - s))


def _normal_cdf(x: Any) -> Any:
    return 0.5 * (1 + erf(x * _SQRT_HALF))


def _gelu_tanh_slope(x: Any) -> Any:
    square_x = x * x
    t = tanh(_TANH_SCALE * (x + _TANH_CUBE * square_x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (_TANH_SCALE * (1 + 3 * _TANH_CUBE * square_x))


def gelu(x: Any, approximate: str = "none") -> Any:
    """x times the normal distribution's cdf at x; 'tanh' takes the usual approximation of it.

    Raises:
        RuntimeError: `approximate` is neither 'none' nor 'tanh'.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}")
    return _gelu_tanh(x) if approximate == "tanh" else _gelu_erf(x)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """x where positive, else negative_slope * x."""
    return where(x > 0, x, x * negative_slope)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x exceeds `threshold`."""
    scaled = x * beta
    high = scaled > threshold
    return where(high, x, log1p(exp(where(high, 0.0, scaled))) / beta)


# -- order. Ties share the gradient equally between both operands.

maximum = binary("maximum", "maximum", da=lambda a, b: where(a == b, 0.5, a > b),
                 db=lambda a, b: where(a == b, 0.5, b > a))
minimum = binary("minimum", "minimum", da=lambda a, b: where(a == b, 0.5, a < b),
                 db=lambda a, b: where(a == b, 0.5, b < a))

# -- absolute values, signs, rounding. The derivative of abs at 0 is 0.

abs = unary("abs", "absolute", d=lambda x: direction(x), floating=False)
sign = unary("sign", lambda xp, x: _sign(xp, x), d=ZERO, floating=False)
floor = unary("floor", "floor", d=ZERO, floating=False)
ceil = unary("ceil", "ceil", d=ZERO, floating=False)
trunc = unary("trunc", "trunc", d=ZERO, floating=False)
_round = unary("round", "round", d=ZERO, floating=False)
copysign = binary("copysign", "copysign", da=lambda a, y: where(a == 0, 0.0, sign(a) * sign(y)),
                  db=ZERO, floating=True)
floor_divide = binary("floor_divide", "floor_divide", da=None, db=None)
remainder = binary("remainder", "remainder", da=ONE, db=lambda a, b: -floor(_fixed(a) / _fixed(b)))
fmod = binary("fmod", "fmod", da=ONE, db=lambda a, b: -trunc(_fixed(a) / _fixed(b)))


def _sign(xp: Any, x: Any) -> Any:
    """-1, 0 or 1, and 0 for NaN."""
    if x.dtype.kind == "f":
        return xp.subtract(x > 0, x < 0, dtype=x.dtype)
    if x.dtype.kind == "c":
        raise TypeError("complex numbers have no sign; x / x.abs() has their direction")
    return x if x.dtype.kind == "b" else xp.sign(x)


def direction(x: Any) -> Any:
    """The sign of real numbers, x / |x| of complex ones; 0 of 0. What abs has as its derivative."""
    return where(x == 0, 0.0, x / _not_zero(abs(x))) if x.dtype.kind == "c" else sign(x)


def _fixed(x: Any) -> Any:
    """A value that a quotient is only rounded from: nothing is differentiated through it."""
    return new_like(x) if isinstance(x, TensorBase) else x


def round(x: Any, *, decimals: int = 0) -> Any:
    """The nearest integer, halves to even; or the nearest multiple of 10 ** -decimals."""
    if decimals == 0:
        return _round(x)
    scale = 10.0 ** decimals
    return _round(x * scale) / scale


def frac(x: Any) -> Any:
    """The part behind the point, with the sign of x."""
    return x - trunc(x)


# -- comparisons and logic: boolean results, no derivative

eq = compare("eq", "equal")
ne = compare("ne", "not_equal")
lt = compare("lt", "less")
le = compare("le", "less_equal")
gt = compare("gt", "greater")
ge = compare("ge", "greater_equal")
logical_and = compare("logical_and", "logical_and")
logical_or = compare("logical_or", "logical_or")
logical_xor = compare("logical_xor", "logical_xor")
logical_not = unary("logical_not", "logical_not", floating=False)
bitwise_and = compare("bitwise_and", "bitwise_and")
bitwise_or = compare("bitwise_or", "bitwise_or")
bitwise_xor = compare("bitwise_xor", "bitwise_xor")
bitwise_not = unary("bitwise_not", "bitwise_not", floating=False)
isnan = unary("isnan", "isnan", floating=False)
isinf = unary("isinf", "isinf", floating=False)
isfinite = unary("isfinite", "isfinite", floating=False)

