"""What ranks of a node do together: sums and means over their memory, and waiting for each other.

Over C pointers: no array objects, no allocation, nothing that can raise. `T` is float or double; scalars come in as
T, so arithmetic is that of the reference, operation by operation, and no fast-math flag lets a compiler change it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from ..vectors import WIDTH, add, divide, fill, load, multiply, squares, store, sum_lanes

__all__ = ["mean_of_ranks", "reduce_share", "sum_of_ranks", "watch"]

_part = register_jitable(forceinline=True, error_model="numpy")


@intrinsic  # type: ignore[misc]
def _look(typing: Any, row: Any, column: Any) -> Any:
    """row[column] as it is now: an atomic load, which no compiler moves out of a loop."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "acquire", 8)

    return types.int64(row, column), code


@intrinsic  # type: ignore[misc]
def _raise(typing: Any, row: Any, column: Any, value: Any) -> Any:
    """row[column] = value, after all that was written before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row_, column_, value_ = arguments
        builder.store_atomic(value_, builder.gep(row_, [column_]), "release", 8)
        return context.get_dummy_value()

    return types.none(row, column, value), code


@intrinsic  # type: ignore[misc]
def _pause(typing: Any) -> Any:
    """Tell an x86 processor that this loop only waits."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])
        return context.get_dummy_value()

    return types.none(), code


_offer_core = types.ExternalFunction("sched_yield", types.int32())


def watch(rows: Any, found: Any, first: int, last: int, column: int, value: int, looks: int, yields: int) -> None:
    """found[0]: whether rows [first, last) have come to `value`, after `looks` looks between two of `yields` yields."""
    found[0] = 0
    for turn in range(yields + 1):
        if turn:
            _offer_core()
        for _ in range(looks):
            r = first
            while r < last and _look(rows[r], column) >= value:
                r += 1
            if r == last:
                found[0] = 1
                return
            _pause()


def mean_of_ranks(flats: Any, outs: Any, partials: Any, sums: Any, ranks: int, targets: int, copies: int, keep: int,
                  more: int, size: int, grid: int, exact: int, divisor: Any, inverse: Any) -> None:
    """`exact`: the divisor is a power of two, so that times `inverse` has the bits of a division."""
    by, times = fill(divisor), fill(inverse)
    for block in range(size // grid):
        total = fill(0.0)
        for i in range(block * grid, (block + 1) * grid, WIDTH):
            mean = load(flats[0], i)
            for r in range(1, ranks):
                mean = add(mean, load(flats[r], i))
            if keep:
                if more:
                    mean = add(load(sums, i), mean)
                store(mean, sums, i)
            if exact:
                mean = multiply(mean, times)
            else:
                mean = divide(mean, by)
            for r in range(targets):
                store(mean, outs[r], i)
            total = squares(total, mean)
        value = sum_lanes(total)
        for r in range(copies):
            partial = partials[r]
            partial[block] = value


def sum_of_ranks(flats: Any, out: Any, ranks: int, size: int) -> None:
    for i in range(0, size, WIDTH):
        total = load(flats[0], i)
        for r in range(1, ranks):
            total = add(total, load(flats[r], i))
        store(total, out, i)


_watch, _mean = _part(watch), _part(mean_of_ranks)


def reduce_share(flats: Any, outs: Any, partials: Any, sums: Any, rows: Any, mine: Any, found: Any, job: Any,
                 divisor: Any, inverse: Any) -> None:
    """A rank's share of one bucket: wait until all have filled it, reduce, say so, and wait until all have.

    `job`: ranks, targets, copies, keep, more, size, grid, exact, column and value of what to wait for, column and value
    to raise then, whether to wait before and after, looks, yields. found[0]: 0 not reduced, 1 reduced, 2 by all.
    """
    ranks = job[0]
    found[0] = 1
    if job[12]:
        _watch(rows, found, 0, ranks, job[8], job[9], job[14], job[15])
        if found[0] == 0:
            return
    _mean(flats, outs, partials, sums, ranks, job[1], job[2], job[3], job[4], job[5], job[6], job[7], divisor, inverse)
    _raise(mine, job[10], job[11])
    if job[13]:
        _watch(rows, found, 0, ranks, job[10], job[11], job[14], job[15])
        found[0] = found[0] + 1
