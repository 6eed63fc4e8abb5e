"""exp, tanh, log, erf and their kin of short vectors: polynomials of our own, for no library from the index has them.

Each is a few multiplications and additions without a branch. Polynomials, and quotients of two, interpolate at
Chebyshev nodes; rounding in between gives at most 2 units in the last place (3 for the logistic function, which is
0 where it would be below the normal numbers). NaN stays NaN, and what leaves the range becomes 0 or inf as the exact
function would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vectors import WIDTH

__all__ = ["Emit", "erf", "exp", "log", "of_one", "sigmoid", "tanh"]

# exp(r) = 1 + r + r^2 * P(r) for |r| <= ln(2) / 2
_EXP = {
    32: (0.5, 0.16666576845993977, 0.041666554437685945, 0.008363202971575855, 0.0013926213466332253),
    64: (0.5, 0.16666666666666666, 0.04166666666666667, 0.008333333333333285, 0.0013888888888881053,
         0.0001984126984147195, 2.4801587334686578e-05, 2.7557318874168345e-06, 2.755726315324491e-07,
         2.5052368360093932e-08, 2.0918575298483218e-09, 1.5999076098410234e-10),
}
# tanh(x) = x + x^3 * Q(x^2) for |x| <= 0.625
_TANH = {
    32: (-0.333333331712397, 0.13333303420387616, -0.053959227261969306, 0.021768655803768067, -0.008343085218843487,
         0.002291770456265672),
    64: (-0.33333333333333337, 0.13333333333333897, -0.0539682539685803, 0.021869488546544993, -0.008863235733224503,
         0.003592130645839614, -0.0014558572362112724, 0.0005901670243691621, -0.00023972815233461804,
         9.87053146964973e-05, -4.288729933377259e-05, 2.047403536128068e-05, -9.355170267169266e-06,
         2.5804555218366373e-06),
}
_TANH_SMALL = 0.625
# P(X > x) = e^(-x^2 / 2) * N(x) / D(x) for a normal X and x >= 0: nodes are evenly spread in x / (x + 3), x / (x + 4)
_TAIL_ABOVE = {
    32: (0.5, 0.4375936985015869, 0.1826702207326889, 0.04042960703372955, 0.004082358442246914),
    64: (0.5, 0.8264390116762824, 0.677233305206694, 0.3554710849740133, 0.1311071375110668, 0.03534107463999677,
         0.007041273528835195, 0.001025071569350438, 0.00010474310614534726, 6.8301227250702235e-06,
         2.1841939157224647e-07),
}
_TAIL_BELOW = {
    32: (1.0, 1.673072338104248, 1.200255036354065, 0.46796804666519165, 0.10134848952293396, 0.010232835076749325),
    64: (1.0, 2.4507625841554304, 2.8098922385043354, 1.9934920327604, 0.97465321348953, 0.3457670766572471,
         0.09112216947098654, 0.017911312346517043, 0.00258659395820462, 0.0002630995276560322, 1.7120578741890866e-05,
         5.474962226425645e-07),
}
_TAIL_LAST = {32: 14.5, 64: 39.0}  # from here it is 0
# erf(x) = x + x * P(x^2) for |x| <= 1
_ERF = {
    32: (0.12837916612625122, -0.3761262595653534, 0.11283594369888306, -0.02685421146452427, 0.005189087241888046,
         -0.000801686430349946, 7.875874871388078e-05),
    64: (0.1283791670955126, -0.3761263890318375, 0.11283791670954879, -0.026866170645076792, 0.0052239776248180145,
         -0.000854832698083379, 0.0001205533111164271, -1.4925595266831182e-05, 1.6461000484121368e-06,
         -1.6350312701054695e-07, 1.4659775274047436e-08, -1.1372848856791674e-09, 5.957176147748911e-11),
}
# log((1 + s) / (1 - s)) = 2 * s + s^3 * P(s^2) for |s| <= 1 / 3
_LOG = {
    32: (0.6666666865348816, 0.3999970555305481, 0.285923570394516, 0.2170657515525818, 0.23224329948425293),
    64: (0.6666666666666666, 0.40000000000014585, 0.2857142856710876, 0.22222222717427864, 0.18181789436132859,
         0.15385570064958623, 0.13314144209654935, 0.12001072809590713, 0.08800738486144674, 0.1616404561194353),
}
_SQRT_HALF = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}  # its bits
_LOG2_E = 1.4426950408889634
_LN_2 = {32: (0.693359375, -0.00021219444005469057), 64: (0.6931471803691238, 1.9082149292705877e-10)}  # high, low
_ROUND = {32: 12582912.0, 64: 6755399441055744.0}  # 1.5 * 2^23, 1.5 * 2^52: adding it rounds to a whole number
_LARGEST = {32: 89.0, 64: 710.0}      # exp is inf from here
_SMALLEST = {32: -104.0, 64: -746.0}  # and 0 from here
_MANTISSA, _BIAS = {32: 23, 64: 52}, {32: 127, 64: 1023}


class Emit:
    """Writes LLVM's code for arithmetic on vectors of one element type; the code of further functions builds on it."""

    def __init__(self, builder: Any, element: Any) -> None:
        self.builder = builder
        self.bits = 32 if element == types.float32 else 64
        self.kind = ir.VectorType(ir.FloatType() if self.bits == 32 else ir.DoubleType(), WIDTH)
        self.whole = ir.VectorType(ir.IntType(self.bits), WIDTH)

    def number(self, value: float) -> Any:
        """A vector of one constant."""
        return ir.Constant(self.kind, [value] * WIDTH)

    def integer(self, value: int) -> Any:
        """A vector of one whole constant."""
        return ir.Constant(self.whole, [value] * WIDTH)

    def add(self, a: Any, b: Any) -> Any:
        """a + b; may be joined with the product that made one of them."""
        return self.builder.fadd(a, b, flags=("contract",))

    def multiply(self, a: Any, b: Any) -> Any:
        """a * b; may be joined with the sum that it goes into."""
        return self.builder.fmul(a, b, flags=("contract",))

    def polynomial(self, x: Any, coefficients: Sequence[float]) -> Any:
        """c0 + x * (c1 + x * (...))"""
        value = self.number(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            value = self.add(self.multiply(value, x), self.number(coefficient))
        return value

    def choose(self, relation: str, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
        """`then` where the ordered comparison holds, which it never does for NaN."""
        return self.builder.select(self.builder.fcmp_ordered(relation, a, b), then, otherwise)

    def absolute(self, x: Any) -> Any:
        """|x|"""
        return self._bits(x, self.builder.and_, (1 << self.bits - 1) - 1)

    def with_sign(self, x: Any, sign: Any) -> Any:
        """x >= 0 with the sign of `sign`."""
        bits = self.builder.and_(self.builder.bitcast(sign, self.whole), self.integer(-1 << self.bits - 1))
        return self.builder.bitcast(self.builder.or_(self.builder.bitcast(x, self.whole), bits), self.kind)

    def _bits(self, x: Any, operation: Any, mask: int) -> Any:
        return self.builder.bitcast(operation(self.builder.bitcast(x, self.whole), self.integer(mask)), self.kind)

    def exp(self, x: Any) -> Any:
        """e^x = 2^n * e^r, with n = round(x / ln 2)."""
        builder, bits = self.builder, self.bits
        largest, smallest, magic = self.number(_LARGEST[bits]), self.number(_SMALLEST[bits]), self.number(_ROUND[bits])
        inside = self.choose(">", x, largest, largest, x)
        inside = self.choose("<", inside, smallest, smallest, inside)  # NaN stays, and goes through all that follows
        shifted = builder.fadd(builder.fmul(inside, self.number(_LOG2_E)), magic)
        n = builder.fsub(shifted, magic)
        high, low = _LN_2[bits]
        r = self.add(self.multiply(n, self.number(-high)), inside)
        r = self.add(self.multiply(n, self.number(-low)), r)
        value = self.add(self.multiply(self.multiply(r, r), self.polynomial(r, _EXP[bits])), r)
        value = self.add(value, self.number(1.0))
        power = builder.sub(builder.bitcast(shifted, self.whole), builder.bitcast(magic, self.whole))
        half = builder.ashr(power, self.integer(1))  # 2^n in two factors: one alone may leave the range
        for part in (half, builder.sub(power, half)):
            exponent = builder.shl(builder.add(part, self.integer(_BIAS[bits])), self.integer(_MANTISSA[bits]))
            value = builder.fmul(value, builder.bitcast(exponent, self.kind))
        return value

    def tanh(self, x: Any) -> Any:
        """A polynomial near 0, else 1 - 2 / (e^2|x| + 1)."""
        size = self.absolute(x)
        square = self.multiply(x, x)
        near = self.add(self.multiply(self.multiply(size, square), self.polynomial(square, _TANH[self.bits])), size)
        one, two = self.number(1.0), self.number(2.0)
        quotient = self.builder.fdiv(two, self.builder.fadd(self.exp(self.builder.fadd(size, size)), one))
        far = self.builder.fsub(one, quotient)
        return self.with_sign(self.choose(">=", size, self.number(_TANH_SMALL), far, near), x)

    def sigmoid(self, x: Any) -> Any:
        """1 / (1 + e^-x)"""
        one = self.number(1.0)
        return self.builder.fdiv(one, self.builder.fadd(self.exp(self.builder.fneg(x)), one))

    def normal(self, x: Any) -> tuple[Any, Any]:
        """(P(X <= x), e^(-x^2 / 2)) for a normal X of mean 0 and variance 1."""
        one, last = self.number(1.0), self.number(_TAIL_LAST[self.bits])
        size = self.absolute(x)
        size = self.choose(">", size, last, last, size)
        e = self.exp(self.multiply(self.multiply(size, size), self.number(-0.5)))
        quotient = self.builder.fdiv(self.polynomial(size, _TAIL_ABOVE[self.bits]),
                                     self.polynomial(size, _TAIL_BELOW[self.bits]))
        tail = self.builder.fmul(e, quotient)
        return self.choose(">=", x, self.number(0.0), self.builder.fsub(one, tail), tail), e

    def erf(self, x: Any) -> Any:
        """A polynomial near 0, else by the normal distribution."""
        size = self.absolute(x)
        near = self.polynomial(self.multiply(x, x), _ERF[self.bits])
        near = self.add(self.multiply(size, near), size)
        below, _ = self.normal(self.multiply(size, self.number(math.sqrt(2))))
        far = self.builder.fsub(self.builder.fadd(below, below), self.number(1.0))
        return self.with_sign(self.choose("<=", size, self.number(1.0), near, far), x)

    def log(self, x: Any) -> Any:
        """Of normal numbers: k ln 2 + log(m), where x = 2^k * m and m is in [sqrt(1/2), sqrt(2)]."""
        builder, one, magic = self.builder, self.number(1.0), self.number(_ROUND[self.bits])
        bits, begin = builder.bitcast(x, self.whole), self.integer(_SQRT_HALF[self.bits])
        exponent = builder.ashr(builder.sub(bits, begin), self.integer(_MANTISSA[self.bits]))
        m = builder.sub(bits, builder.shl(exponent, self.integer(_MANTISSA[self.bits])))
        k = builder.bitcast(builder.add(exponent, builder.bitcast(magic, self.whole)), self.kind)
        k = builder.fsub(k, magic)
        m = builder.bitcast(m, self.kind)
        high, low = _LN_2[self.bits]
        value = self._log_beside_one(builder.fsub(m, one), self.multiply(k, self.number(low)))
        value = self.add(self.multiply(k, self.number(high)), value)
        return builder.select(builder.fcmp_unordered("uno", x, x), x, value)

    def log1p(self, x: Any) -> Any:
        """log(1 + x) for x in [0, 1]."""
        return self._log_beside_one(x, self.number(0.0))

    def _log_beside_one(self, x: Any, more: Any) -> Any:
        """log(1 + x) + more. With s = x / (2 + x) that is 2 s + s^3 P(s^2), and 2 s = x - s x, of which x is exact."""
        s = self.builder.fdiv(x, self.builder.fadd(x, self.number(2.0)))
        square = self.multiply(s, s)
        rest = self.add(self.multiply(self.builder.fneg(square), self.polynomial(square, _LOG[self.bits])), x)
        return self.builder.fadd(x, self.add(self.multiply(self.builder.fneg(s), rest), more))


def of_one(emit: type[Emit], name: str) -> Any:
    """A method of `emit` as a function of one vector, for loops."""

    def typed(typing: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(emit(builder, x.element), name)(*arguments)

        return x(x), code

    typed.__doc__ = getattr(emit, name).__doc__
    return intrinsic(typed)


exp = of_one(Emit, "exp")
tanh = of_one(Emit, "tanh")
sigmoid = of_one(Emit, "sigmoid")
erf = of_one(Emit, "erf")
log = of_one(Emit, "log")
