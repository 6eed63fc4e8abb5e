"""Moving parts of matrices in compiled loops: rows copied and cleared, and turned into columns.

Compilers make good code of such loops too, but a lot of it for each place where one stands.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["SIDE", "clear", "copy", "turn"]

SIDE = 8  # of the square that `turn` turns

_BYTE, _WHOLE = ir.IntType(8).as_pointer(), ir.IntType(64)


def _bytes(builder: Any, x: Any, pointer: Any, index: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), _BYTE)


def _size(builder: Any, x: Any, count: Any) -> Any:
    return builder.mul(count, _WHOLE(int(x.dtype.bitwidth) // 8))


@intrinsic  # type: ignore[misc]
def copy(typing: Any, x: Any, at: Any, count: Any, out: Any, to: Any) -> Any:
    """out[to:to + count] = x[at:at + count], which do not overlap."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, begin, many, target, place = arguments
        function = builder.module.declare_intrinsic("llvm.memcpy", [_BYTE, _BYTE, _WHOLE])
        builder.call(function, [_bytes(builder, out, target, place), _bytes(builder, x, source, begin),
                                _size(builder, x, many), ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.none(x, types.int64, types.int64, out, types.int64), code


@intrinsic  # type: ignore[misc]
def clear(typing: Any, out: Any, to: Any, count: Any) -> Any:
    """out[to:to + count] = 0"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, place, many = arguments
        function = builder.module.declare_intrinsic("llvm.memset", [_BYTE, _WHOLE])
        builder.call(function, [_bytes(builder, out, target, place), ir.IntType(8)(0), _size(builder, out, many),
                                ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.none(out, types.int64, types.int64), code


def _merged(builder: Any, a: Any, b: Any, begin: int) -> Any:
    """a[begin], b[begin], a[begin + 1], b[begin + 1], ..., half of each."""
    order = [begin + i // 2 + i % 2 * SIDE for i in range(SIDE)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), SIDE), order))


@intrinsic  # type: ignore[misc]
def turn(typing: Any, x: Any, at: Any, stride: Any, out: Any, to: Any, pitch: Any) -> Any:
    """out[to + e * pitch + j] = x[at + j * stride + e] for j and e below SIDE.

    Merging row i with row i + SIDE / 2 to rows 2 i and 2 i + 1, as often as SIDE can be halved, turns a square.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, begin, step, target, place, apart = arguments
        vector = ir.VectorType(ir.FloatType() if x.dtype == types.float32 else ir.DoubleType(), SIDE).as_pointer()
        align = int(x.dtype.bitwidth) // 8

        def row(pointer: Any, start: Any, distance: Any, i: int) -> Any:
            index = builder.add(start, builder.mul(distance, _WHOLE(i)))
            return builder.bitcast(builder.gep(pointer, [index]), vector)

        square = [builder.load(row(source, begin, step, i), align=align) for i in range(SIDE)]
        size = SIDE
        while size > 1:
            size //= 2
            square = [_merged(builder, square[i // 2], square[i // 2 + SIDE // 2], i % 2 * SIDE // 2)
                      for i in range(SIDE)]
        for i in range(SIDE):
            builder.store(square[i], row(target, place, apart, i), align=align)
        return context.get_dummy_value()

    return types.none(x, types.int64, types.int64, out, types.int64, types.int64), code
