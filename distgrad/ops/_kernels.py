"""Which kernel of an array's own backend an elementwise op calls, looked up once for each kind of array.

A backend may have kernels of its own for what the array namespace has too (exp), and for the gradient that a row's
derivative describes (exp_backward); where it has none, the namespace and the derivative serve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import of_type
from ..graph.base import TensorBase

__all__ = ["Kernels", "Slopes"]


class Kernels(dict[type, Callable[..., Any]]):
    """Array type -> the op's kernel there.

    A kernel is a name in xp ('tanh'), in scipy.special ('special.erfc'), among the backend's kernels
    ('kernels.silu'), or a callable (xp, *arrays). Called with arrays, it finds the kernel by the first.
    """

    def __init__(self, kernel: str | Callable[..., Any]) -> None:
        super().__init__()
        self.kernel = kernel

    def __call__(self, array: Any, *rest: Any) -> Any:
        return self[array.__class__](array, *rest)

    def __missing__(self, kind: type) -> Callable[..., Any]:
        backend = of_type(kind)
        kernel = self.kernel
        if not isinstance(kernel, str):
            found = backend.bind(kernel)
        elif "." not in kernel:
            found = backend.override(kernel) or getattr(backend.xp, kernel)
        else:
            family, name = kernel.split(".")
            found = getattr(backend.kernels, name) if family == "kernels" else \
                _keep_dtype(getattr(backend.special, name))
        self[kind] = found
        return found


class Slopes(dict[type, Callable[..., Any] | None]):
    """Array type -> its backend's kernel (g, *what the derivative takes) for g * derivative; None where there is none.

    Such a kernel answers None for arrays that it does not take. Tensors, which go through gradients that are recorded,
    have none.
    """

    def __init__(self, kernel: str | Callable[..., Any]) -> None:
        super().__init__()
        self.name = f"{kernel.rpartition('.')[2]}_backward" if isinstance(kernel, str) else ""

    def __missing__(self, kind: type) -> Callable[..., Any] | None:
        found = None if issubclass(kind, TensorBase) or not self.name else of_type(kind).override(self.name)
        self[kind] = found
        return found


def _keep_dtype(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """scipy's functions, which make float64 of float16, and of float32 beside a Python number, in the array's dtype."""

    def keeping(x: Any, *rest: Any) -> Any:
        out = kernel(x, *rest)
        kind = (x if hasattr(x, "dtype") else rest[0]).dtype
        return out if out.dtype == kind or kind.kind not in "fc" else out.astype(kind)

    return keeping
