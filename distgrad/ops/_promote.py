"""Type promotion as torch does it: by category first, dimensioned tensors before 0-d ones before scalars.

numpy differs in three ways that matter: an integer and a float32 tensor make float32, an integer
tensor and a Python float make the default dtype, and a 0-d tensor does not widen a dimensioned one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .._typing import DType
from ..backend.dtypes import category, complex_of, get_default_dtype, promote_types

__all__ = ["float_dtype", "result_type", "scalar_result"]


@lru_cache(maxsize=1024)
def result_type(a: DType, a_has_dims: bool, b: DType, b_has_dims: bool) -> DType:
    """The dtype of an operation on two tensors."""
    if a_has_dims == b_has_dims:
        return promote_types(a, b)
    high, low = (a, b) if a_has_dims else (b, a)
    high_rank, low_rank = category(high), category(low)
    if high_rank >= low_rank:
        return high
    if high_rank == 2 and low_rank == 3:
        return complex_of(high)
    return promote_types(high, low)


def scalar_result(dtype: DType, scalar: Any) -> DType:
    """The dtype of an operation on a tensor and a Python number, which only lends its category."""
    rank = category(dtype)
    if isinstance(scalar, bool) or rank == 3:
        return dtype
    if isinstance(scalar, int):
        return dtype if rank else INT64
    if isinstance(scalar, float):
        return dtype if rank == 2 else get_default_dtype()
    return complex_of(dtype if rank == 2 else get_default_dtype())


def float_dtype(dtype: DType) -> DType:
    """What an operation with real results (exp, division) computes in: integers become the default dtype."""
    return dtype if category(dtype) >= 2 else get_default_dtype()


INT64 = promote_types("int64", "int64")
