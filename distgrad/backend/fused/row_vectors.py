"""What loops over rows need besides `vectors`: parts of a vector where a row ends, and what a row comes to.

Reading a part fills the other lanes with a number of the caller's choice, which the sum or the maximum of a row does
not see. Writing parts is slow: a loop that goes forward may write beyond a row, where the next one comes later.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from .vectors import WIDTH, _register, _Vector, load, store

__all__ = ["first", "inlined", "largest", "lowest", "maximum", "read", "subtract", "write", "zeros"]

inlined = register_jitable(forceinline=True, error_model="numpy")

_WHOLE = ir.IntType(64)


def _masked(builder: Any, x: Any, pointer: Any, index: Any, count: Any) -> tuple[Any, Any, Any]:
    """A vector's place, its alignment, and which of its lanes are below `count`."""
    kind = ir.VectorType(_WHOLE, WIDTH)
    nothing = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nothing, count, ir.IntType(32)(0))
    counts = builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))
    place = builder.bitcast(builder.gep(pointer, [index]), _register(x.dtype).as_pointer())
    return place, ir.IntType(32)(int(x.dtype.bitwidth) // 8), \
        builder.icmp_signed("<", ir.Constant(kind, list(range(WIDTH))), counts)


def _call(builder: Any, name: str, x: Any, result: Any, *arguments: Any) -> Any:
    """LLVM's masked access of that name to vectors of x."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    name = f"llvm.masked.{name}.v{WIDTH}f{x.dtype.bitwidth}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic  # type: ignore[misc]
def _load_part(typing: Any, x: Any, index: Any, count: Any, other: Any) -> Any:
    """The first `count` of x[index:index + WIDTH], then those of `other`; the rest of x is not touched."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, align, mask = _masked(builder, x, *arguments[:3])
        return _call(builder, "load", x, _register(x.dtype), place, align, mask, arguments[3])

    return _Vector(x.dtype)(x, index, count, other), code


@intrinsic  # type: ignore[misc]
def _store_part(typing: Any, value: Any, x: Any, index: Any, count: Any) -> Any:
    """x[index:index + count] = the first of `value`; the rest of x is not touched."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, "store", x, ir.VoidType(), arguments[0], *_masked(builder, x, *arguments[1:]))
        return context.get_dummy_value()

    return types.none(value, x, index, count), code


@inlined
def read(x: Any, at: int, left: int, other: Any) -> Any:
    """x[at:at + WIDTH]; where only `left` elements are left, these and then those of `other`."""
    if left >= WIDTH:
        return load(x, at)
    return _load_part(x, at, left, other)


@inlined
def write(value: Any, x: Any, at: int, left: int) -> None:
    """x[at:at + WIDTH] = value, or the first `left` of it."""
    if left >= WIDTH:
        store(value, x, at)
    else:
        _store_part(value, x, at, left)


def _constant(number: float, meaning: str) -> Any:
    def typed(typing: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return ir.Constant(_register(x.dtype), [number] * WIDTH)

        return _Vector(x.dtype)(x), code

    typed.__doc__ = meaning
    return intrinsic(typed)


zeros = _constant(0.0, "Zeros, of the type that x points to.")
lowest = _constant(-math.inf, "-inf, of the type that x points to.")


@intrinsic  # type: ignore[misc]
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """a - b, element by element."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fsub(*arguments)

    return a(a, b), code


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@intrinsic  # type: ignore[misc]
def maximum(typing: Any, value: Any, most: Any) -> Any:
    """The larger one, element by element; of NaN and a number in `most` the latter."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _larger(builder, *arguments)

    return most(value, most), code


@intrinsic  # type: ignore[misc]
def largest(typing: Any, value: Any) -> Any:
    """The largest of all lanes, none of which is NaN."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (value_,) = arguments
        width = WIDTH
        while width > 1:
            width //= 2
            halves = [ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(begin, begin + width)))
                      for begin in (0, width)]
            value_ = _larger(builder, *(builder.shuffle_vector(value_, ir.Constant(value_.type, ir.Undefined), half)
                                        for half in halves))
        return builder.extract_element(value_, ir.IntType(32)(0))

    return value.element(value), code


@intrinsic  # type: ignore[misc]
def first(typing: Any, value: Any) -> Any:
    """The first lane: of a vector that was filled with one number."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(arguments[0], ir.IntType(32)(0))

    return value.element(value), code
