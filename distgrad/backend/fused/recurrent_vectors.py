"""What the loops of recurrent layers need of vectors besides `vectors`: products in registers, and gates' arithmetic.

[Note: panels] In a step few rows (the batch) meet a matrix that is the same in all steps. It is laid out once as
panels, as many columns as a tile of registers is wide, one row of a panel after the other, zeros beyond the last
column. A tile of the result then stays in registers while a panel streams by. Each element sums its products
one after the other, so its bits do not depend on the shape of the tile, only on whether the processor joins a
product and a sum.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vector_math import Emit, of_one

__all__ = ["DEPTH", "ROWS", "columns", "joined", "ramp", "ramp_slope", "rest", "rest_of_square", "tile"]



def _registers() -> tuple[int, int]:
    """Bytes of a vector register, and how many of them a row of a tile takes: the rows and their operands fit in."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 4
    if features.get("avx"):
        return 32, 3
    return 16, 4 if features.get("neon") else 2


ROWS = 4  # of a tile
_BYTES, _REGISTERS = _registers()
DEPTH = 24576 // (_BYTES * _REGISTERS)  # rows of a panel that the first cache keeps while the batch passes
_whole = ir.IntType(64)
_JOIN = ("contract",)


def _lanes(element: Any) -> int:
    return _BYTES * 8 // int(element.bitwidth)


@intrinsic  # type: ignore[misc]
def columns(typing: Any, x: Any) -> Any:
    """How many columns a tile has, for elements of the type that x points to."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _whole(_REGISTERS * _lanes(x.dtype))

    return types.int64(x), code


@intrinsic  # type: ignore[misc]
def tile(typing: Any, a: Any, at: Any, a_stride: Any, panel: Any, place: Any, depth: Any, out: Any, to: Any,
         out_stride: Any, rows: Any) -> Any:
    """out += a @ panel for a tile: `depth` products a[at:], panel[place:], out[to:]; strides are those of rows.

    With less than ROWS rows the last one is computed again: every load of `out` comes before the first store.
    """
    element = ir.FloatType() if a.dtype == types.float32 else ir.DoubleType()
    lanes = _lanes(a.dtype)
    vector = ir.VectorType(element, lanes)
    align = int(a.dtype.bitwidth) // 8

    def everywhere(builder: Any, scalar: Any) -> Any:
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
        return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined),
                                      ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))

    def vectors(builder: Any, pointer: Any) -> list[Any]:
        return [builder.bitcast(builder.gep(pointer, [_whole(r * lanes)]), vector.as_pointer())
                for r in range(_REGISTERS)]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a_, at_, a_stride_, panel_, place_, depth_, out_, to_, out_stride_, rows_ = arguments
        last = builder.sub(rows_, _whole(1))
        sources, targets = [], []
        for i in range(ROWS):
            row = builder.select(builder.icmp_signed("<", _whole(i), last), _whole(i), last)
            sources.append(builder.gep(a_, [builder.add(at_, builder.mul(row, a_stride_))]))
            targets += vectors(builder, builder.gep(out_, [builder.add(to_, builder.mul(row, out_stride_))]))
        before = builder.block
        loop, after = builder.append_basic_block("products"), builder.append_basic_block("sums")
        begin = builder.gep(panel_, [place_])
        starts = [builder.load(target, align=align) for target in targets]
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(_whole)
        k.add_incoming(_whole(0), before)
        sums = [builder.phi(vector) for _ in targets]
        across = [builder.load(pointer, align=align) for pointer in
                  vectors(builder, builder.gep(begin, [builder.mul(k, _whole(_REGISTERS * lanes))]))]
        totals = []
        for i, source in enumerate(sources):
            value = everywhere(builder, builder.load(builder.gep(source, [k])))
            for r, weights in enumerate(across):
                product = builder.fmul(value, weights, flags=_JOIN)
                totals.append(builder.fadd(product, sums[i * _REGISTERS + r], flags=_JOIN))
        following = builder.add(k, _whole(1))
        k.add_incoming(following, loop)
        for total, start, value in zip(sums, starts, totals, strict=True):
            total.add_incoming(start, before)
            total.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, depth_), loop, after)
        builder.position_at_end(after)
        for target, value in zip(targets, totals, strict=True):
            builder.store(value, target, align=align)
        return context.get_dummy_value()

    return types.none(a, at, a_stride, panel, place, depth, out, to, out_stride, rows), code


@intrinsic  # type: ignore[misc]
def joined(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the processor can."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = Emit(builder, a.element)
        return emit.add(emit.multiply(*arguments[:2]), arguments[2])

    return a(a, b, c), code


class _Slopes(Emit):
    """What derivatives of gates are made of, of the gates' values; and the one gate that vector_math lacks."""

    def rest(self, x: Any) -> Any:
        """1 - x"""
        return self.builder.fsub(self.number(1.0), x)

    def rest_of_square(self, x: Any) -> Any:
        """1 - x * x, rounded once where the processor can."""
        return self.add(self.multiply(self.builder.fneg(x), x), self.number(1.0))

    def ramp(self, x: Any) -> Any:
        """max(x, 0); NaN stays NaN."""
        return self.choose("<", x, self.number(0.0), self.number(0.0), x)

    def ramp_slope(self, x: Any) -> Any:
        """1 where x > 0, else 0."""
        return self.choose(">", x, self.number(0.0), self.number(1.0), self.number(0.0))


rest = of_one(_Slopes, "rest")
rest_of_square = of_one(_Slopes, "rest_of_square")
ramp = of_one(_Slopes, "ramp")
ramp_slope = of_one(_Slopes, "ramp_slope")
