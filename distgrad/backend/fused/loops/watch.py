"""Looking at counters that other processes raise."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["watch"]


@intrinsic  # type: ignore[misc]
def _look(typing: Any, row: Any, column: Any) -> Any:
    """row[column] as it is now: an atomic load, which no compiler moves out of a loop."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "acquire", 8)

    return types.int64(row, column), code


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
