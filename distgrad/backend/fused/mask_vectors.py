"""Masks of bytes beside vectors, and the uniform float32 numbers that they are drawn from.

Loops have no pointers to either: both come in as pointers to integers, and are counted in their own elements here.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from .vectors import WIDTH, _register, _Vector

__all__ = ["drawn", "kept"]

_BYTES, _SINGLES = ir.VectorType(ir.IntType(8), WIDTH), ir.VectorType(ir.FloatType(), WIDTH)


def _place(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(builder.bitcast(pointer, kind.element.as_pointer()), [index]), kind.as_pointer())


def _ones(builder: Any, held: Any, element: Any) -> Any:
    kind = _register(element)
    return builder.select(held, ir.Constant(kind, [1.0] * WIDTH), ir.Constant(kind, [0.0] * WIDTH))


@intrinsic  # type: ignore[misc]
def drawn(typing: Any, noise: Any, mask: Any, index: Any, p: Any, x: Any) -> Any:
    """mask[index:index + WIDTH] = noise >= p; the same as 1 and 0, of the type that x points to."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        noise_, mask_, at, least, _ = arguments
        if least.type != ir.FloatType():
            least = builder.fptrunc(least, ir.FloatType())
        one = builder.insert_element(ir.Constant(_SINGLES, ir.Undefined), least, ir.IntType(32)(0))
        bound = builder.shuffle_vector(one, ir.Constant(_SINGLES, ir.Undefined),
                                       ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))
        held = builder.fcmp_ordered(">=", builder.load(_place(builder, noise_, at, _SINGLES), align=4), bound)
        builder.store(builder.zext(held, _BYTES), _place(builder, mask_, at, _BYTES), align=1)
        return _ones(builder, held, x.dtype)

    return _Vector(x.dtype)(noise, mask, index, p, x), code


@intrinsic  # type: ignore[misc]
def kept(typing: Any, mask: Any, index: Any, x: Any) -> Any:
    """mask[index:index + WIDTH] as 1 and 0, of the type that x points to."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask_, at, _ = arguments
        found = builder.load(_place(builder, mask_, at, _BYTES), align=1)
        return _ones(builder, builder.icmp_unsigned("!=", found, ir.Constant(_BYTES, [0] * WIDTH)), x.dtype)

    return _Vector(x.dtype)(mask, index, x), code
