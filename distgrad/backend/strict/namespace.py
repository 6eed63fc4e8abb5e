"""The strict device's array namespace: the functions that numpy and cupy both have, over private memory.

A name that is not listed is refused even where numpy has it, for a GPU might not: whoever adds one here
has looked whether cupy has it, with the same meaning.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from .array import StrictArray, call, only_numpys, transfers

__all__ = ["Namespace"]

_FUNCTIONS = (
    "absolute", "abs", "add", "all", "allclose", "angle", "any", "append", "arange", "arccos", "arccosh", "arcsin",
    "arcsinh", "arctan", "arctan2", "arctanh", "argmax", "argmin", "argsort", "argwhere", "array", "array_equal",
    "asarray", "ascontiguousarray", "bincount", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor",
    "broadcast_arrays", "broadcast_to", "ceil", "clip", "concatenate", "conj", "copysign", "copyto", "cos", "cosh",
    "count_nonzero", "cumprod", "cumsum", "diagonal", "diff", "divide", "dot", "einsum", "empty", "empty_like", "equal",
    "exp", "exp2", "expm1", "eye", "flatnonzero", "flip", "floor", "floor_divide", "fmod", "full", "full_like",
    "greater", "greater_equal", "hypot", "isclose", "isfinite", "isinf", "isnan", "less", "less_equal", "linspace",
    "log", "log10", "log1p", "log2", "logaddexp", "logical_and", "logical_not", "logical_or", "logical_xor", "matmul",
    "max", "maximum", "mean", "min", "minimum", "moveaxis", "multiply", "nan_to_num", "negative", "nonzero",
    "not_equal", "ones", "ones_like", "power", "prod", "ravel", "remainder", "repeat", "reshape", "roll", "round",
    "sign", "sin", "sinh", "sort", "sqrt", "square", "stack", "subtract", "sum", "swapaxes", "take", "take_along_axis",
    "tan", "tanh", "tensordot", "tile", "transpose", "tri", "tril", "triu", "true_divide", "trunc", "unique", "where",
    "zeros", "zeros_like",
)
_NAMESPACES = {
    "linalg": ("cholesky", "det", "eigh", "eigvalsh", "inv", "norm", "pinv", "qr", "slogdet", "solve", "svd"),
    "lib": (),
    "stride_tricks": ("as_strided",),
}
# What has no arrays in it is numpy's own.
_PLAIN = ("bool_", "broadcast_shapes", "complex128", "complex64", "dtype", "e", "errstate", "finfo", "float16",
          "float32", "float64", "iinfo", "inf", "int16", "int32", "int64", "int8", "LinAlgError", "nan", "newaxis",
          "pi", "result_type", "uint16", "uint32", "uint64", "uint8")
_TRUTHS = ("allclose", "array_equal")  # a Python bool in numpy, an array of one element on other devices
_MAKERS = ("array", "asarray", "ascontiguousarray")


class Namespace:
    """A module's functions for the strict device.

    Args:
        module: whose functions do the work.
        names: those that are offered.
    """

    def __init__(self, module: Any, names: tuple[str, ...] = _FUNCTIONS) -> None:
        self._module = module
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            found: Any = _Function(_AS_CUPY.get(name) or getattr(self._module, name), name)
        elif name in _NAMESPACES:
            found = Namespace(getattr(self._module, name), _NAMESPACES[name])
        elif name in _PLAIN:
            found = getattr(self._module, name)
        elif name == "may_share_memory":
            found = _may_share_memory
        else:
            raise AttributeError(f"the strict device has no {self._module.__name__}.{name}: use a function that numpy "
                                 "and cupy both have, and list it in distgrad.backend.strict.namespace")
        setattr(self, name, found)
        return found


class _Function:
    """One function; of a ufunc also `at`."""

    __slots__ = ("_function", "name")

    def __init__(self, function: Any, name: str) -> None:
        self._function = function
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name in _MAKERS and args and not isinstance(args[0], StrictArray):  # numbers travel too
            transfers.note("from_host", 0)
        if self.name != "copyto":
            only_numpys(kwargs)
        result = call(self._function, *args, **kwargs)
        return call(np.asarray, result) if self.name in _TRUTHS else result

    def at(self, *args: Any) -> None:
        """ufunc.at: in place, repeated indices each time; in the types in which cupy has it."""
        if args[0].dtype.name not in _ADDED_AT:
            raise TypeError(f"the strict device has no {self.name}.at in {args[0].dtype}, as cupy")
        call(self._function.at, *args)

    def accumulate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """cupy has it for two functions, which are cumsum and cumprod."""
        raise NotImplementedError(f"the strict device has no {self.name}.accumulate, as cupy")


def _solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """cupy's solve broadcasts nothing."""
    if b.ndim > 1 and a.shape[:-1] != b.shape[:-1]:
        raise ValueError(f"solve: stacks of matrices of shapes {a.shape} and {b.shape} are not broadcast here")
    return np.linalg.solve(a, b)


_AS_CUPY = {"solve": _solve}
_ADDED_AT = ("float16", "float32", "float64", "int32", "int64", "uint32", "uint64")


def _may_share_memory(a: Any, b: Any) -> bool:
    return bool(call(np.may_share_memory, a, b))
