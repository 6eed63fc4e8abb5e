"""exp, tanh and the logistic function of short vectors: polynomials of our own, for no library from the index has them.

Each is a few multiplications and additions without a branch. Polynomials interpolate at Chebyshev nodes;
rounding in between gives at most 2 units in the last place (3 for the logistic function, which is 0 where it would
be below the normal numbers). NaN stays NaN, and what leaves the range becomes 0 or inf as the exact function would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vectors import WIDTH

__all__ = ["exp", "sigmoid", "tanh"]

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
        inside = self.choose("<", x, largest, x, largest)
        inside = self.choose(">", inside, smallest, inside, smallest)
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
        return builder.select(builder.fcmp_unordered("uno", x, x), x, value)

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


def _function(name: str) -> Any:
    def typed(typing: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(Emit(builder, x.element), name)(*arguments)

        return x(x), code

    typed.__doc__ = getattr(Emit, name).__doc__
    return intrinsic(typed)


exp = _function("exp")
tanh = _function("tanh")
sigmoid = _function("sigmoid")
