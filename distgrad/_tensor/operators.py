"""Operators and methods of two operands, one line each."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import DeviceArray
from ..graph.base import TensorBase
from ..ops import linalg
from ..ops import pointwise as P
from ..ops.inplace import in_place

OPERANDS = (TensorBase, int, float, complex, np.ndarray, np.generic, DeviceArray)

__all__ = ["Operators"]


class Operators:
    """Arithmetic, comparison and logic with another operand."""

    __slots__ = ()

    # operators

    def __add__(self, other: Any) -> Any:
        return P.add(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return P.add(other, self) if isinstance(other, OPERANDS) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        return P.sub(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return P.sub(other, self) if isinstance(other, OPERANDS) else NotImplemented

    def __mul__(self, other: Any) -> Any:
        return P.mul(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __rmul__(self, other: Any) -> Any:
        return P.mul(other, self) if isinstance(other, OPERANDS) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        return P.div(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return P.div(other, self) if isinstance(other, OPERANDS) else NotImplemented

    def __pow__(self, other: Any) -> Any:
        return P.pow(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __rpow__(self, other: Any) -> Any:
        return P.pow(other, self) if isinstance(other, OPERANDS) else NotImplemented

    def __floordiv__(self, other: Any) -> Any:
        return P.floor_divide(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __rfloordiv__(self, other: Any) -> Any:
        return P.floor_divide(other, self) if isinstance(other, OPERANDS) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        return P.remainder(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __rmod__(self, other: Any) -> Any:
        return P.remainder(other, self) if isinstance(other, OPERANDS) else NotImplemented

    def __matmul__(self, other: Any) -> Any:
        return linalg.matmul(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __rmatmul__(self, other: Any) -> Any:
        return linalg.matmul(other, self) if isinstance(other, OPERANDS) else NotImplemented

    def __and__(self, other: Any) -> Any:
        return P.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Any:
        return P.bitwise_and(other, self)

    def __or__(self, other: Any) -> Any:
        return P.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Any:
        return P.bitwise_or(other, self)

    def __xor__(self, other: Any) -> Any:
        return P.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Any:
        return P.bitwise_xor(other, self)

    def __eq__(self, other: Any) -> Any:
        return P.eq(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __ne__(self, other: Any) -> Any:
        return P.ne(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __lt__(self, other: Any) -> Any:
        return P.lt(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __le__(self, other: Any) -> Any:
        return P.le(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __gt__(self, other: Any) -> Any:
        return P.gt(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __ge__(self, other: Any) -> Any:
        return P.ge(self, other) if isinstance(other, OPERANDS) else NotImplemented

    def __neg__(self) -> Any:
        return P.neg(self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return P.abs(self)

    def __invert__(self) -> Any:
        return P.bitwise_not(self)

    def __iadd__(self, other: Any) -> Any:
        return in_place("add_", self, P.add, other)

    def __isub__(self, other: Any) -> Any:
        return in_place("sub_", self, P.sub, other)

    def __imul__(self, other: Any) -> Any:
        return in_place("mul_", self, P.mul, other)

    def __itruediv__(self, other: Any) -> Any:
        return in_place("div_", self, P.div, other)

    def __ipow__(self, other: Any) -> Any:
        return in_place("pow_", self, P.pow, other)

    def __ifloordiv__(self, other: Any) -> Any:
        return in_place("floor_divide_", self, P.floor_divide, other)

    def __imod__(self, other: Any) -> Any:
        return in_place("remainder_", self, P.remainder, other)

    # two operands

    def add(self, other: Any, *, alpha: Any = 1) -> Any:
        return P.add(self, other if alpha == 1 else other * alpha)

    def sub(self, other: Any, *, alpha: Any = 1) -> Any:
        return P.sub(self, other if alpha == 1 else other * alpha)

    def mul(self, other: Any) -> Any:
        return P.mul(self, other)

    def div(self, other: Any) -> Any:
        return P.div(self, other)

    def pow(self, exponent: Any) -> Any:
        return P.pow(self, exponent)

    def atan2(self, other: Any) -> Any:
        return P.atan2(self, other)

    def hypot(self, other: Any) -> Any:
        return P.hypot(self, other)

    def maximum(self, other: Any) -> Any:
        return P.maximum(self, other)

    def minimum(self, other: Any) -> Any:
        return P.minimum(self, other)

    def remainder(self, other: Any) -> Any:
        return P.remainder(self, other)

    def fmod(self, other: Any) -> Any:
        return P.fmod(self, other)

    def floor_divide(self, other: Any) -> Any:
        return P.floor_divide(self, other)

    def copysign(self, other: Any) -> Any:
        return P.copysign(self, other)

    def logaddexp(self, other: Any) -> Any:
        return P.logaddexp(self, other)

    def xlogy(self, other: Any) -> Any:
        return P.xlogy(self, other)

    def eq(self, other: Any) -> Any:
        return P.eq(self, other)

    def ne(self, other: Any) -> Any:
        return P.ne(self, other)

    def lt(self, other: Any) -> Any:
        return P.lt(self, other)

    def le(self, other: Any) -> Any:
        return P.le(self, other)

    def gt(self, other: Any) -> Any:
        return P.gt(self, other)

    def ge(self, other: Any) -> Any:
        return P.ge(self, other)

    def logical_and(self, other: Any) -> Any:
        return P.logical_and(self, other)

    def logical_or(self, other: Any) -> Any:
        return P.logical_or(self, other)

    def logical_xor(self, other: Any) -> Any:
        return P.logical_xor(self, other)

    def bitwise_and(self, other: Any) -> Any:
        return P.bitwise_and(self, other)

    def bitwise_or(self, other: Any) -> Any:
        return P.bitwise_or(self, other)

    def bitwise_xor(self, other: Any) -> Any:
        return P.bitwise_xor(self, other)

    def true_divide(self, other: Any) -> Any:
        return P.div(self, other)

    def multiply(self, other: Any) -> Any:
        return P.mul(self, other)

    def subtract(self, other: Any) -> Any:
        return self.sub(other)
