"""Short vectors as numba types: what a compiled loop holds in registers, said outright instead of hoped for.

A vector has WIDTH elements on every machine, and the compiler cuts it into the registers that there are; so
sums in lanes have the same bits everywhere. Loads come before stores in the code as written: arrays may be one
and the same, where a compiler that vectorises by itself would have to give up.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = ["WIDTH", "add", "divide", "fill", "load", "multiply", "squares", "store", "sum_lanes"]

WIDTH = 32


class _Vector(types.Type):
    """WIDTH elements of a float type."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"vector({WIDTH} x {element})")


@register_model(_Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, _register(kind.element))


def _register(element: Any) -> Any:
    return ir.VectorType(ir.FloatType() if element == types.float32 else ir.DoubleType(), WIDTH)


def _place(builder: Any, pointer: Any, index: Any, element: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), _register(element).as_pointer())


def _align(element: Any) -> int:
    return int(element.bitwidth) // 8


@intrinsic  # type: ignore[misc]
def load(typing: Any, x: Any, index: Any) -> Any:
    """x[index:index + WIDTH]"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_place(builder, *arguments, x.dtype), align=_align(x.dtype))

    return _Vector(x.dtype)(x, index), code


@intrinsic  # type: ignore[misc]
def store(typing: Any, value: Any, x: Any, index: Any) -> Any:
    """x[index:index + WIDTH] = value"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value_, pointer, at = arguments
        builder.store(value_, _place(builder, pointer, at, x.dtype), align=_align(x.dtype))
        return context.get_dummy_value()

    return types.none(value, x, index), code


@intrinsic  # type: ignore[misc]
def fill(typing: Any, scalar: Any) -> Any:
    """A vector of one number."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, zero = _register(scalar), ir.IntType(32)(0)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), arguments[0], zero)
        return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined),
                                      ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))

    return _Vector(scalar)(scalar), code


def _arithmetic(name: str, meaning: str) -> Any:
    def typed(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return a(a, b), code

    typed.__doc__ = meaning
    return intrinsic(typed)


add = _arithmetic("fadd", "a + b, element by element.")
multiply = _arithmetic("fmul", "a * b, element by element.")
divide = _arithmetic("fdiv", "a / b, element by element.")


@intrinsic  # type: ignore[misc]
def squares(typing: Any, total: Any, value: Any) -> Any:
    """total + value * value, in float64."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = arguments[1]
        if value.element == types.float32:
            wide = builder.fpext(wide, _register(types.float64))
        return builder.fadd(arguments[0], builder.fmul(wide, wide))

    return total(total, value), code


@intrinsic  # type: ignore[misc]
def sum_lanes(typing: Any, total: Any) -> Any:
    """The sum of all lanes: halves are added until one is left."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        width = WIDTH
        while width > 1:
            width //= 2
            halves = [ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(begin, begin + width)))
                      for begin in (0, width)]
            low, high = (builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), half) for half in halves)
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.IntType(32)(0))

    return total.element(total), code
