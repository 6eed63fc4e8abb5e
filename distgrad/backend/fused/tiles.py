"""Small matrices in registers as numba types: what products of matrices are made of in compiled loops.

A tile has ROWS rows of as many elements as 64 bytes hold. Its rows lie anywhere in memory, so that nothing has to
be copied for a product of what is transposed, strided or gathered. Each element sums its products one after the
other: its bits depend neither on the tile it falls into nor on how many rows a tile has on this processor.

[Note: short tiles] `rows` and `listed` take the last row again where there are too few. If all operands of a tile
do so, the copies have the same values, and writing them again changes nothing; so no loop has code for the rest.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = ["ROWS", "add", "lanes", "level", "listed", "multiply_add", "nothing", "read_lanes", "read_tile",
           "rows", "scale", "write_tile"]

# 16 vector registers hold 6 rows of two, one factor and the other; AVX-512 has 32, and one is a row.
ROWS = 12 if llvm.get_host_cpu_features().get("avx512f") else 6
_BITS = 512  # of a row
_WHOLE, _JOIN = ir.IntType(64), ("contract",)


class _Lanes(types.Type):
    """One row."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"lanes({element})")


class _Tile(types.Type):
    """ROWS rows."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"tile({element})")


class _Rows(types.Type):
    """Where ROWS rows begin."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"rows({element})")


def _scalar(element: Any) -> Any:
    return ir.FloatType() if element == types.float32 else ir.DoubleType()


def _count(element: Any) -> int:
    return _BITS // int(element.bitwidth)


def _vector(element: Any) -> Any:
    return ir.VectorType(_scalar(element), _count(element))


def _model(kind: Any, layout: Any) -> None:
    class Model(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, found: Any) -> None:
            super().__init__(manager, found, layout(found.element))

    register_model(kind)(Model)


_model(_Lanes, _vector)
_model(_Tile, lambda element: ir.ArrayType(_vector(element), ROWS))
_model(_Rows, lambda element: ir.ArrayType(_scalar(element).as_pointer(), ROWS))


def _load(builder: Any, pointer: Any, index: Any, element: Any) -> Any:
    place = builder.bitcast(builder.gep(pointer, [index]), _vector(element).as_pointer())
    return builder.load(place, align=int(element.bitwidth) // 8)


def _everywhere(builder: Any, scalar: Any, element: Any) -> Any:
    """A row of one number."""
    nowhere = ir.Constant(_vector(element), ir.Undefined)
    one = builder.insert_element(nowhere, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(one, nowhere, ir.Constant(ir.VectorType(ir.IntType(32), _count(element)),
                                                            [0] * _count(element)))


def _factor(builder: Any, rows: Any, row: int, index: Any, element: Any) -> Any:
    pointer = builder.extract_value(rows, row)
    return _everywhere(builder, builder.load(builder.gep(pointer, [index])), element)


def _each(builder: Any, element: Any, value: Any) -> Any:
    """A tile of value(r) for each row r."""
    tile = ir.Constant(ir.ArrayType(_vector(element), ROWS), ir.Undefined)
    for r in range(ROWS):
        tile = builder.insert_value(tile, value(r), r)
    return tile


# -- places

@intrinsic  # type: ignore[misc]
def lanes(typing: Any, x: Any) -> Any:
    """How many elements a row has, for elements of the type that x points to."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _WHOLE(_count(x.dtype))

    return types.int64(x), code


def _chosen(builder: Any, element: Any, count: Any, place: Any) -> Any:
    """place(min(r, count - 1)) for each row r."""
    found = ir.Constant(ir.ArrayType(_scalar(element).as_pointer(), ROWS), ir.Undefined)
    last = builder.sub(count, _WHOLE(1))
    for r in range(ROWS):
        inside = builder.icmp_signed("<", _WHOLE(r), last)
        found = builder.insert_value(found, place(builder.select(inside, _WHOLE(r), last)), r)
    return found


@intrinsic  # type: ignore[misc]
def rows(typing: Any, x: Any, start: Any, stride: Any, count: Any) -> Any:
    """Rows that begin at x[start], x[start + stride], ...; the last of `count` again where there are fewer."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, first, step, many = arguments
        return _chosen(builder, x.dtype, many,
                       lambda r: builder.gep(pointer, [builder.add(first, builder.mul(r, step))]))

    return _Rows(x.dtype)(x, types.int64, types.int64, types.int64), code


@intrinsic  # type: ignore[misc]
def listed(typing: Any, x: Any, places: Any, first: Any, count: Any) -> Any:
    """Rows that begin at x[places[first]], x[places[first + 1]], ...; the last of `count` again, as in `rows`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, table, begin, many = arguments
        return _chosen(builder, x.dtype, many,
                       lambda r: builder.gep(pointer, [builder.load(builder.gep(table, [builder.add(begin, r)]))]))

    return _Rows(x.dtype)(x, places, types.int64, types.int64), code


# -- from and to memory

@intrinsic  # type: ignore[misc]
def read_lanes(typing: Any, x: Any, index: Any) -> Any:
    """One row, from x[index] on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(builder, *arguments, x.dtype)

    return _Lanes(x.dtype)(x, types.int64), code


@intrinsic  # type: ignore[misc]
def read_tile(typing: Any, places: Any, index: Any) -> Any:
    """A tile, from the element `index` of each row on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found, at = arguments
        return _each(builder, places.element,
                     lambda r: _load(builder, builder.extract_value(found, r), at, places.element))

    return _Tile(places.element)(places, types.int64), code


@intrinsic  # type: ignore[misc]
def write_tile(typing: Any, tile: Any, places: Any, index: Any) -> Any:
    """Put a tile at the element `index` of each row."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, found, at = arguments
        for r in range(ROWS):
            place = builder.gep(builder.extract_value(found, r), [at])
            builder.store(builder.extract_value(value, r), builder.bitcast(place, _vector(tile.element).as_pointer()),
                          align=int(tile.element.bitwidth) // 8)
        return context.get_dummy_value()

    return types.none(tile, places, types.int64), code


@intrinsic  # type: ignore[misc]
def nothing(typing: Any, x: Any) -> Any:
    """Zeros, of the type that x points to."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.ArrayType(_vector(x.dtype), ROWS), None)

    return _Tile(x.dtype)(x), code


@intrinsic  # type: ignore[misc]
def level(typing: Any, places: Any, index: Any) -> Any:
    """A tile whose rows are full of places[r][index]."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _each(builder, places.element, lambda r: _factor(builder, arguments[0], r, arguments[1], places.element))

    return _Tile(places.element)(places, types.int64), code


# -- arithmetic

@intrinsic  # type: ignore[misc]
def multiply_add(typing: Any, tile: Any, row: Any, places: Any, index: Any) -> Any:
    """tile[r] + places[r][index] * row: one term of a product of matrices."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, other, found, at = arguments

        def joined(r: int) -> Any:
            product = builder.fmul(_factor(builder, found, r, at, tile.element), other, flags=_JOIN)
            return builder.fadd(builder.extract_value(total, r), product, flags=_JOIN)

        return _each(builder, tile.element, joined)

    return tile(tile, row, places, types.int64), code


@intrinsic  # type: ignore[misc]
def scale(typing: Any, tile: Any, places: Any, index: Any) -> Any:
    """tile[r] * places[r][index]"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, found, at = arguments
        return _each(builder, tile.element, lambda r: builder.fmul(
            builder.extract_value(total, r), _factor(builder, found, r, at, tile.element)))

    return tile(tile, places, types.int64), code


@intrinsic  # type: ignore[misc]
def add(typing: Any, a: Any, b: Any) -> Any:
    """a + b"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _each(builder, a.element, lambda r: builder.fadd(*(builder.extract_value(x, r) for x in arguments)))

    return a(a, b), code
