"""Small matrices in registers as numba types: what products of matrices are made of in compiled loops.

A tile has ROWS rows, or FEW, of as many elements as 64 bytes hold. Its rows lie anywhere in memory, so that nothing
has to be copied for a product of what is transposed, strided or gathered. Each element sums its products one after the
other: its bits depend neither on the tile it falls into nor on how many rows a tile has on this processor.

[Note: short tiles] `rows`, `few_rows` and `listed` take the last row again where there are too few. If all operands of
a tile do so, the copies have the same values, and writing them again changes nothing; so no loop has code for the rest.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = ["FEW", "ROWS", "add", "few_rows", "lanes", "least", "level", "listed", "multiply_add", "multiply_add_side",
           "no_lanes", "nothing",
           "read_lanes", "read_tile", "rows", "scale", "spread_lanes", "write_column", "write_lanes", "write_tile"]

# 16 vector registers hold 6 rows of two, one factor and the other; AVX-512 has 32, and one is a row.
ROWS = 12 if llvm.get_host_cpu_features().get("avx512f") else 6
FEW = 4      # rows of a low tile, for what is left
_BITS = 512  # of a row
_WHOLE, _JOIN = ir.IntType(64), ("contract",)


class _Lanes(types.Type):
    """One row."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"lanes({element})")


class _Tile(types.Type):
    """Several rows."""

    def __init__(self, element: Any, height: int) -> None:
        self.element, self.height = element, height
        super().__init__(name=f"tile({height} x {element})")


class _Rows(types.Type):
    """Where the rows of a tile begin."""

    def __init__(self, element: Any, height: int) -> None:
        self.element, self.height = element, height
        super().__init__(name=f"rows({height} x {element})")


def _scalar(element: Any) -> Any:
    return ir.FloatType() if element == types.float32 else ir.DoubleType()


def _count(element: Any) -> int:
    return _BITS // int(element.bitwidth)


def _vector(element: Any) -> Any:
    return ir.VectorType(_scalar(element), _count(element))


def _model(kind: Any, layout: Any) -> None:
    class Model(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, found: Any) -> None:
            super().__init__(manager, found, layout(found))

    register_model(kind)(Model)


_model(_Lanes, lambda kind: _vector(kind.element))
_model(_Tile, lambda kind: ir.ArrayType(_vector(kind.element), kind.height))
_model(_Rows, lambda kind: ir.ArrayType(_scalar(kind.element).as_pointer(), kind.height))


def _load(builder: Any, pointer: Any, index: Any, element: Any) -> Any:
    place = builder.bitcast(builder.gep(pointer, [index]), _vector(element).as_pointer())
    return builder.load(place, align=int(element.bitwidth) // 8)


def _store(builder: Any, value: Any, pointer: Any, index: Any, element: Any) -> None:
    place = builder.bitcast(builder.gep(pointer, [index]), _vector(element).as_pointer())
    builder.store(value, place, align=int(element.bitwidth) // 8)


def _everywhere(builder: Any, scalar: Any, element: Any) -> Any:
    """A row of one number."""
    nowhere = ir.Constant(_vector(element), ir.Undefined)
    one = builder.insert_element(nowhere, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(one, nowhere, ir.Constant(ir.VectorType(ir.IntType(32), _count(element)),
                                                            [0] * _count(element)))


def _factor(builder: Any, rows: Any, row: int, index: Any, element: Any) -> Any:
    pointer = builder.extract_value(rows, row)
    return _everywhere(builder, builder.load(builder.gep(pointer, [index])), element)


def _each(builder: Any, kind: Any, value: Any) -> Any:
    """A tile of value(r) for each row r, as high as `kind`."""
    tile = ir.Constant(ir.ArrayType(_vector(kind.element), kind.height), ir.Undefined)
    for r in range(kind.height):
        tile = builder.insert_value(tile, value(r), r)
    return tile


# -- places

@intrinsic  # type: ignore[misc]
def least(typing: Any, a: Any, b: Any) -> Any:
    """The smaller of two whole numbers. (To numba `min` is a function that may fail, and so is what calls it.)"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.icmp_signed("<", *arguments), *arguments)

    return types.int64(types.int64, types.int64), code


@intrinsic  # type: ignore[misc]
def lanes(typing: Any, x: Any) -> Any:
    """How many elements a row has, for elements of the type that x points to."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _WHOLE(_count(x.dtype))

    return types.int64(x), code


def _chosen(builder: Any, element: Any, height: int, count: Any, place: Any) -> Any:
    """place(min(r, count - 1)) for each row r."""
    found = ir.Constant(ir.ArrayType(_scalar(element).as_pointer(), height), ir.Undefined)
    last = builder.sub(count, _WHOLE(1))
    for r in range(height):
        inside = builder.icmp_signed("<", _WHOLE(r), last)
        found = builder.insert_value(found, place(builder.select(inside, _WHOLE(r), last)), r)
    return found


def _strided(height: int) -> Any:
    def typed(typing: Any, x: Any, start: Any, stride: Any, count: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer, first, step, many = arguments
            return _chosen(builder, x.dtype, height, many,
                           lambda r: builder.gep(pointer, [builder.add(first, builder.mul(r, step))]))

        return _Rows(x.dtype, height)(x, types.int64, types.int64, types.int64), code

    typed.__doc__ = "Rows that begin at x[start], x[start + stride], ...; the last of `count` again where few."
    return intrinsic(typed)


rows = _strided(ROWS)
few_rows = _strided(FEW)


@intrinsic  # type: ignore[misc]
def listed(typing: Any, x: Any, places: Any, first: Any, count: Any) -> Any:
    """Rows that begin at x[places[first]], x[places[first + 1]], ...; the last of `count` again, as in `rows`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, table, begin, many = arguments
        return _chosen(builder, x.dtype, ROWS, many,
                       lambda r: builder.gep(pointer, [builder.load(builder.gep(table, [builder.add(begin, r)]))]))

    return _Rows(x.dtype, ROWS)(x, places, types.int64, types.int64), code


# -- from and to memory

@intrinsic  # type: ignore[misc]
def read_lanes(typing: Any, x: Any, index: Any) -> Any:
    """One row, from x[index] on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(builder, *arguments, x.dtype)

    return _Lanes(x.dtype)(x, types.int64), code


@intrinsic  # type: ignore[misc]
def spread_lanes(typing: Any, x: Any, index: Any, step: Any, last: Any) -> Any:
    """One row of x[index], x[index + step], ...; x[last] where that would be further on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, at, distance, end = arguments
        row = ir.Constant(_vector(x.dtype), ir.Undefined)
        for lane in range(_count(x.dtype)):
            inside = builder.icmp_signed("<", at, end)
            row = builder.insert_element(row, builder.load(builder.gep(pointer, [builder.select(inside, at, end)])),
                                         ir.IntType(32)(lane))
            at = builder.add(at, distance)
        return row

    return _Lanes(x.dtype)(x, types.int64, types.int64, types.int64), code


@intrinsic  # type: ignore[misc]
def write_lanes(typing: Any, row: Any, x: Any, index: Any) -> Any:
    """Put one row at x[index]."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, pointer, at = arguments
        _store(builder, value, pointer, at, x.dtype)
        return context.get_dummy_value()

    return types.none(row, x, types.int64), code


@intrinsic  # type: ignore[misc]
def read_tile(typing: Any, places: Any, index: Any) -> Any:
    """A tile, from the element `index` of each row on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found, at = arguments
        return _each(builder, places,
                     lambda r: _load(builder, builder.extract_value(found, r), at, places.element))

    return _Tile(places.element, places.height)(places, types.int64), code


@intrinsic  # type: ignore[misc]
def write_tile(typing: Any, tile: Any, places: Any, index: Any) -> Any:
    """Put a tile at the element `index` of each row."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, found, at = arguments
        for r in range(tile.height):
            _store(builder, builder.extract_value(value, r), builder.extract_value(found, r), at, tile.element)
        return context.get_dummy_value()

    return types.none(tile, places, types.int64), code


@intrinsic  # type: ignore[misc]
def no_lanes(typing: Any, x: Any) -> Any:
    """A row of zeros, of the type that x points to."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_vector(x.dtype), None)

    return _Lanes(x.dtype)(x), code


@intrinsic  # type: ignore[misc]
def write_column(typing: Any, places: Any, index: Any, x: Any, to: Any) -> Any:
    """Put places[r][index] at x[to + r], for each row r."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found, at, pointer, place = arguments
        for r in range(places.height):
            value = builder.load(builder.gep(builder.extract_value(found, r), [at]))
            builder.store(value, builder.gep(pointer, [builder.add(place, _WHOLE(r))]))
        return context.get_dummy_value()

    return types.none(places, types.int64, x, types.int64), code


@intrinsic  # type: ignore[misc]
def nothing(typing: Any, places: Any) -> Any:
    """A tile of zeros, as high as the rows of one of its factors."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(ir.ArrayType(_vector(places.element), places.height), None)

    return _Tile(places.element, places.height)(places), code


@intrinsic  # type: ignore[misc]
def level(typing: Any, places: Any, index: Any) -> Any:
    """A tile whose rows are full of places[r][index]."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _each(builder, places, lambda r: _factor(builder, arguments[0], r, arguments[1], places.element))

    return _Tile(places.element, places.height)(places, types.int64), code


# -- arithmetic

@intrinsic  # type: ignore[misc]
def multiply_add(typing: Any, tile: Any, row: Any, places: Any, index: Any) -> Any:
    """tile[r] + places[r][index] * row: one term of a product of matrices."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, other, found, at = arguments

        def joined(r: int) -> Any:
            product = builder.fmul(_factor(builder, found, r, at, tile.element), other, flags=_JOIN)
            return builder.fadd(builder.extract_value(total, r), product, flags=_JOIN)

        return _each(builder, tile, joined)

    return tile(tile, row, places, types.int64), code


@intrinsic  # type: ignore[misc]
def multiply_add_side(typing: Any, tile: Any, row: Any, x: Any, index: Any) -> Any:
    """tile[r] + x[index + r] * row: as `multiply_add`, with the factors side by side.

    Twelve places and their index are more than there are registers for addresses; one place is not.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, other, pointer, at = arguments
        begin = builder.gep(pointer, [at])

        def joined(r: int) -> Any:
            factor = _everywhere(builder, builder.load(builder.gep(begin, [_WHOLE(r)])), tile.element)
            product = builder.fmul(factor, other, flags=_JOIN)
            return builder.fadd(builder.extract_value(total, r), product, flags=_JOIN)

        return _each(builder, tile, joined)

    return tile(tile, row, x, types.int64), code


@intrinsic  # type: ignore[misc]
def scale(typing: Any, tile: Any, places: Any, index: Any) -> Any:
    """tile[r] * places[r][index]"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, found, at = arguments
        return _each(builder, tile, lambda r: builder.fmul(
            builder.extract_value(total, r), _factor(builder, found, r, at, tile.element)))

    return tile(tile, places, types.int64), code


@intrinsic  # type: ignore[misc]
def add(typing: Any, a: Any, b: Any) -> Any:
    """a + b"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _each(builder, a, lambda r: builder.fadd(*(builder.extract_value(x, r) for x in arguments)))

    return a(a, b), code
