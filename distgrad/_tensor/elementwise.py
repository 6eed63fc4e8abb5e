"""Elementwise methods of one tensor, out of place and in place, one line each."""

from __future__ import annotations

from typing import Any

from ..ops import pointwise as P
from ..ops import select, softmax
from ..ops.inplace import in_place

__all__ = ["Elementwise"]


class Elementwise:
    """Functions of each element."""

    __slots__ = ()

    # elementwise

    def abs(self) -> Any:
        return P.abs(self)

    def neg(self) -> Any:
        return P.neg(self)

    def square(self) -> Any:
        return P.square(self)

    def reciprocal(self) -> Any:
        return P.reciprocal(self)

    def exp(self) -> Any:
        return P.exp(self)

    def exp2(self) -> Any:
        return P.exp2(self)

    def expm1(self) -> Any:
        return P.expm1(self)

    def log(self) -> Any:
        return P.log(self)

    def log2(self) -> Any:
        return P.log2(self)

    def log10(self) -> Any:
        return P.log10(self)

    def log1p(self) -> Any:
        return P.log1p(self)

    def sqrt(self) -> Any:
        return P.sqrt(self)

    def rsqrt(self) -> Any:
        return P.rsqrt(self)

    def sin(self) -> Any:
        return P.sin(self)

    def cos(self) -> Any:
        return P.cos(self)

    def tan(self) -> Any:
        return P.tan(self)

    def asin(self) -> Any:
        return P.asin(self)

    def acos(self) -> Any:
        return P.acos(self)

    def atan(self) -> Any:
        return P.atan(self)

    def sinh(self) -> Any:
        return P.sinh(self)

    def cosh(self) -> Any:
        return P.cosh(self)

    def tanh(self) -> Any:
        return P.tanh(self)

    def asinh(self) -> Any:
        return P.asinh(self)

    def acosh(self) -> Any:
        return P.acosh(self)

    def atanh(self) -> Any:
        return P.atanh(self)

    def erf(self) -> Any:
        return P.erf(self)

    def erfc(self) -> Any:
        return P.erfc(self)

    def erfinv(self) -> Any:
        return P.erfinv(self)

    def lgamma(self) -> Any:
        return P.lgamma(self)

    def digamma(self) -> Any:
        return P.digamma(self)

    def relu(self) -> Any:
        return P.relu(self)

    def sigmoid(self) -> Any:
        return P.sigmoid(self)

    def sign(self) -> Any:
        return P.sign(self)

    def floor(self) -> Any:
        return P.floor(self)

    def ceil(self) -> Any:
        return P.ceil(self)

    def trunc(self) -> Any:
        return P.trunc(self)

    def frac(self) -> Any:
        return P.frac(self)

    def isnan(self) -> Any:
        return P.isnan(self)

    def isinf(self) -> Any:
        return P.isinf(self)

    def isfinite(self) -> Any:
        return P.isfinite(self)

    def logical_not(self) -> Any:
        return P.logical_not(self)

    def bitwise_not(self) -> Any:
        return P.bitwise_not(self)

    def round(self, *, decimals: int = 0) -> Any:
        return P.round(self, decimals=decimals)

    def clamp(self, min: Any = None, max: Any = None) -> Any:
        return select.clamp(self, min, max)

    def clip(self, min: Any = None, max: Any = None) -> Any:
        return select.clamp(self, min, max)

    def masked_fill(self, mask: Any, value: Any) -> Any:
        return select.masked_fill(self, mask, value)

    def where(self, condition: Any, other: Any) -> Any:
        return select.where(condition, self, other)

    def softmax(self, dim: int, dtype: Any = None) -> Any:
        return softmax.softmax(self, dim, dtype=dtype)

    def log_softmax(self, dim: int, dtype: Any = None) -> Any:
        return softmax.log_softmax(self, dim, dtype=dtype)

    def lerp(self, end: Any, weight: Any) -> Any:
        return self + (end - self) * weight

    def addcmul(self, a: Any, b: Any, *, value: Any = 1) -> Any:
        return self + a * b * value

    def addcdiv(self, a: Any, b: Any, *, value: Any = 1) -> Any:
        return self + a / b * value

    # in place

    def abs_(self) -> Any:
        return in_place("abs_", self, P.abs)

    def neg_(self) -> Any:
        return in_place("neg_", self, P.neg)

    def exp_(self) -> Any:
        return in_place("exp_", self, P.exp)

    def log_(self) -> Any:
        return in_place("log_", self, P.log)

    def sqrt_(self) -> Any:
        return in_place("sqrt_", self, P.sqrt)

    def rsqrt_(self) -> Any:
        return in_place("rsqrt_", self, P.rsqrt)

    def reciprocal_(self) -> Any:
        return in_place("reciprocal_", self, P.reciprocal)

    def square_(self) -> Any:
        return in_place("square_", self, P.square)

    def sin_(self) -> Any:
        return in_place("sin_", self, P.sin)

    def cos_(self) -> Any:
        return in_place("cos_", self, P.cos)

    def tanh_(self) -> Any:
        return in_place("tanh_", self, P.tanh)

    def sigmoid_(self) -> Any:
        return in_place("sigmoid_", self, P.sigmoid)

    def relu_(self) -> Any:
        return in_place("relu_", self, P.relu)

    def floor_(self) -> Any:
        return in_place("floor_", self, P.floor)

    def ceil_(self) -> Any:
        return in_place("ceil_", self, P.ceil)

    def trunc_(self) -> Any:
        return in_place("trunc_", self, P.trunc)

    def erf_(self) -> Any:
        return in_place("erf_", self, P.erf)

    def expm1_(self) -> Any:
        return in_place("expm1_", self, P.expm1)

    def log1p_(self) -> Any:
        return in_place("log1p_", self, P.log1p)

    def round_(self, *, decimals: int = 0) -> Any:
        return in_place("round_", self, P.round, decimals=decimals)

    def mul_(self, other: Any) -> Any:
        return in_place("mul_", self, P.mul, other)

    def div_(self, other: Any) -> Any:
        return in_place("div_", self, P.div, other)

    def pow_(self, other: Any) -> Any:
        return in_place("pow_", self, P.pow, other)

    def floor_divide_(self, other: Any) -> Any:
        return in_place("floor_divide_", self, P.floor_divide, other)

    def remainder_(self, other: Any) -> Any:
        return in_place("remainder_", self, P.remainder, other)

    def fmod_(self, other: Any) -> Any:
        return in_place("fmod_", self, P.fmod, other)

    def add_(self, other: Any, *, alpha: Any = 1) -> Any:
        return in_place("add_", self, P.add, other if alpha == 1 else other * alpha)

    def sub_(self, other: Any, *, alpha: Any = 1) -> Any:
        return in_place("sub_", self, P.sub, other if alpha == 1 else other * alpha)

    def clamp_(self, min: Any = None, max: Any = None) -> Any:
        return in_place("clamp_", self, select.clamp, min, max)

    def masked_fill_(self, mask: Any, value: Any) -> Any:
        return in_place("masked_fill_", self, select.masked_fill, mask, value)

    def lerp_(self, end: Any, weight: Any) -> Any:
        return in_place("lerp_", self, type(self).lerp, end, weight)

    def addcmul_(self, a: Any, b: Any, *, value: Any = 1) -> Any:
        return in_place("addcmul_", self, type(self).addcmul, a, b, value=value)

    def addcdiv_(self, a: Any, b: Any, *, value: Any = 1) -> Any:
        return in_place("addcdiv_", self, type(self).addcdiv, a, b, value=value)
