"""Parts of complex tensors. Gradients follow torch: the conjugate of the Wirtinger derivative."""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..backend.dtypes import complex_of
from ..graph.base import TensorBase
from ..graph.function import Function
from ._promote import float_dtype
from .cast import cast
from .select import where

__all__ = ["Angle", "Complex", "Conj", "Imag", "Real", "ViewAsComplex", "ViewAsReal", "angle",
           "complex", "conj", "imag", "real", "view_as_complex", "view_as_real"]


class Conj(Function):
    """The complex conjugate."""

    fresh = False

    def forward(ctx: Any, x: Any) -> Any:
        return of(x).xp.conj(x)

    def vjp(ctx: Any, g: Any) -> Any:
        return conj(g)


class Real(Function):
    """The real part, a view."""

    view = True

    def forward(ctx: Any, x: Any) -> Any:
        ctx.input_dtype = x.dtype
        return x.real

    def vjp(ctx: Any, g: Any) -> Any:
        return cast(g, ctx.input_dtype)


class Imag(Function):
    """The imaginary part, a view."""

    view = True

    def forward(ctx: Any, x: Any) -> Any:
        ctx.input_dtype = x.dtype
        return x.imag

    def vjp(ctx: Any, g: Any) -> Any:
        return cast(g, ctx.input_dtype) * 1j


class Angle(Function):
    """The argument of a complex number; for real numbers 0 or pi."""

    def forward(ctx: Any, x: Any) -> Any:
        ctx.save(x)
        return of(x).xp.angle(x)

    def vjp(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved
        if x.dtype.kind != "c":
            return g * 0
        size = x * conj(x)
        return g * 1j * x / where(size == 0, 1.0, size)


class Complex(Function):
    """Complex numbers from real and imaginary parts."""

    def forward(ctx: Any, re: Any, im: Any) -> Any:
        return (re + 1j * im).astype(complex_of(re.dtype))

    def vjp(ctx: Any, g: Any) -> Any:
        return real(g), imag(g)


class ViewAsReal(Function):
    """(..., 2) real from (...) complex, a view."""

    view = True

    def forward(ctx: Any, x: Any) -> Any:
        return x.view(x.real.dtype).reshape((*x.shape, 2))

    def vjp(ctx: Any, g: Any) -> Any:
        return view_as_complex(g)


class ViewAsComplex(Function):
    """(...) complex from (..., 2) real, a view."""

    view = True

    def forward(ctx: Any, x: Any) -> Any:
        if x.ndim < 1 or x.shape[-1] != 2:
            raise RuntimeError(f"view_as_complex: the last dimension holds real and imaginary part, so it is 2; "
                               f"the shape is {x.shape}")
        return of(x).xp.ascontiguousarray(x).view(complex_of(x.dtype))[..., 0]

    def vjp(ctx: Any, g: Any) -> Any:
        return view_as_real(g)



def conj(x: Any) -> Any:
    """The complex conjugate; a real tensor is returned as it is."""
    return Conj.apply(x) if x.dtype.kind == "c" else x


def real(x: Any) -> Any:
    """The real part; a real tensor is returned as it is."""
    return Real.apply(x) if x.dtype.kind == "c" else x


def imag(x: Any) -> Any:
    """The imaginary part.

    Raises:
        RuntimeError: the tensor is real.
    """
    if x.dtype.kind != "c":
        raise RuntimeError(f"imag: a tensor of dtype {x.dtype} has no imaginary part")
    return Imag.apply(x)


def angle(x: Any) -> Any:
    """The argument of each element, in radians."""
    if isinstance(x, TensorBase) and x.dtype.kind not in "fc":
        x = cast(x, float_dtype(x.dtype))
    return Angle.apply(x)


def complex(real: Any, imag: Any) -> Any:
    """real + i * imag; both real, of one dtype and shape."""
    return Complex.apply(real, imag)


def view_as_real(x: Any) -> Any:
    """A complex tensor as a real one with a last dimension of 2."""
    return ViewAsReal.apply(x)


def view_as_complex(x: Any) -> Any:
    """A real tensor with a last dimension of 2 as a complex one."""
    return ViewAsComplex.apply(x)
