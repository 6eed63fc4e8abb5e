"""What attention needs of vectors besides `vectors` and `row_vectors`: a row's end in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vectors import WIDTH

__all__ = ["begun"]

_LANE = ir.IntType(32)


@intrinsic  # type: ignore[misc]
def begun(typing: Any, value: Any, count: Any, other: Any) -> Any:
    """The first `count` lanes of a vector, and those of `other`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, many, rest = arguments
        kind = ir.VectorType(_LANE, WIDTH)
        nothing = ir.Constant(kind, ir.Undefined)
        one = builder.insert_element(nothing, builder.trunc(many, _LANE), _LANE(0))
        counts = builder.shuffle_vector(one, nothing, ir.Constant(kind, [0] * WIDTH))
        return builder.select(builder.icmp_signed("<", ir.Constant(kind, list(range(WIDTH))), counts), first, rest)

    return value(value, types.int64, other), code
