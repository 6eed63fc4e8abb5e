"""How an elementwise op is declared: one row with its kernel and its derivative.

    tanh = unary("tanh", "tanh", d=lambda y: 1 - y * y)
    mul = binary("mul", "multiply", da=lambda b: b, db=lambda a: a)

A derivative takes what it needs by name: `x` and `y` (a unary op's input and output), or `a`, `b`
and `y`. It may also be ONE, MINUS_ONE or ZERO. The gradient is g * conj(d), which serves complex tensors;
the forward derivative is t * d. Only what live derivatives name is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..backend import DeviceArray, device_of, of
from ..graph import dual
from ..graph.base import INFERENCE_VERSION, TensorBase, wrap, zeros_as
from ..graph.extras import record_extras
from ..graph.modes import DUAL, EXTRAS, GRAD, INFERENCE, state
from ..graph.node import Node
from ..graph.saved import unpack
from ..graph.version import inference_error
from ._kernels import Kernels, Slopes
from ._promote import float_dtype, result_type, scalar_result
from .cast import cast

__all__ = ["MINUS_ONE", "ONE", "ZERO", "Binary", "Elementwise", "Unary", "binary", "compare", "conj", "device_error",
           "unary"]

ONE = 1          # the derivative is one: the gradient passes through
MINUS_ONE = -1   # ... or changes its sign
ZERO = 0         # ... or is zero everywhere, also for an infinite cotangent
NUMBERS = (bool, int, float, complex)


def _undefined(name: str, error: TypeError, *operands: Any) -> RuntimeError:
    """numpy has no such function for these dtypes."""
    kinds = " and ".join([str(getattr(x, "dtype", type(x).__name__)) for x in operands])
    return RuntimeError(f"{name} is not defined for {kinds} ({error})")


def conj(x: Any) -> Any:
    """The complex conjugate of an array, tensor or number; real ones pass."""
    if isinstance(x, NUMBERS):
        return x.conjugate()
    return x.conj() if x.dtype.kind == "c" else x


def _names(d: Any) -> tuple[str, ...]:
    return d.__code__.co_varnames[: d.__code__.co_argcount] if callable(d) else ()


def _by_constant(g: Any, d: int) -> Any:
    return zeros_as(g) if d == ZERO else g if d == ONE else -g


def _times(g: Any, d: Any, node: Node, saved: Sequence[Any], places: tuple[int, ...]) -> Any:
    """g * conj(derivative), with the two derivatives that need no product; `places` says what of `saved` it takes."""
    if d.__class__ is int:
        return g if d == ONE else _by_constant(g, d)
    value = d(saved[places[0]]) if len(places) == 1 else d(*[saved[place] for place in places])
    return g * (conj(value) if node.dtype.kind == "c" else value)


_A, _B, _Y = 0, 1, 2  # what a derivative wants: the first input, the second one, the output


def _keep(node: Node, codes: tuple[int, ...], a: Any, b: Any, made: Any) -> None:
    """Save what `codes` say, with their versions: the quick form of `saved.resolve`."""
    values: list[Any] = []
    expected: list[Any] = []
    for code in codes:
        if code == _Y:
            version = made.version = [0]
            node.own = ((len(values), 0),)
            values.append(made.array)
            expected.append((version, 0))
            continue
        value = b if code else a
        values.append(value)
        if isinstance(value, TensorBase):
            version = value.version
            if version is None:
                expected.append(0)
                continue
            if version is INFERENCE_VERSION:
                raise inference_error(node, value)
            expected.append(version[0])
        else:
            expected.append(None)
    node.values = values
    node.expected = expected


class Elementwise:
    """What unary and binary ops share: a name, kernels, and a result recorded as one node."""

    fresh = True

    def __init__(self, name: str, kernel: str | Callable[..., Any], floating: bool, doc: str) -> None:
        self.name = name
        self.__name__ = name
        self.__doc__ = doc
        self.kernels = Kernels(kernel)
        self.floating = floating

    def __repr__(self) -> str:
        return f"<op {self.name}>"


class Unary(Elementwise):
    """An elementwise op of one input."""

    def __init__(self, name: str, kernel: Any, d: Any, floating: bool, doc: str) -> None:
        super().__init__(name, kernel, floating, doc)
        self.d = d
        self.slopes = Slopes(kernel)
        self.names = _names(d)
        self.keeps_x = "x" in self.names
        self.keeps_y = "y" in self.names
        self.codes = tuple([_A if name == "x" else _Y for name in self.names])

    def __call__(self, x: Any) -> Any:
        if not isinstance(x, TensorBase):
            return self.kernels[x.__class__](x)
        flags = state.flags
        if flags & (DUAL | INFERENCE):
            return self._infer(x) if flags & INFERENCE else dual.apply(self, (x,), {})
        array = x.array
        if self.floating and array.dtype.kind not in "fc":
            x = cast(x, float_dtype(array.dtype))
            array = x.array
        try:
            out = self.kernels[array.__class__](array)
        except TypeError as error:
            raise _undefined(self.name, error, array) from error
        if out.__class__ is not array.__class__:
            out = of(array).xp.asarray(out)
        edge = x.fn
        if edge is None and x._rg:
            edge = x
        if edge is None or self.d is None or not flags & GRAD:
            return wrap(out)
        node = Node(self, (edge,))
        node.shape = out.shape
        node.dtype = out.dtype
        made = wrap(out, node)
        if self.names:
            _keep(node, self.codes, x, None, made)
        if flags & EXTRAS:
            record_extras(node, flags, (made,))
        return made

    def _infer(self, x: Any) -> Any:
        """In inference mode: no edges, no version, no node."""
        array = x.array
        if self.floating and array.dtype.kind not in "fc":
            array = array.astype(float_dtype(array.dtype))
        return _inferred(self.kernels[array.__class__](array), array)

    def saved_names(self, node: Node) -> tuple[str, ...]:
        """What `node` keeps, under the names of its `_saved_` attributes."""
        return tuple(["result" if name == "y" else "self" for name in self.names])

    def vjp(self, node: Node, g: Any) -> Any:
        """g * conj(d)."""
        d = self.d
        if d.__class__ is int:
            return _by_constant(g, d)
        saved = unpack(node)
        slope = self.slopes[g.__class__]
        if slope is not None and (gx := slope(g, *saved)) is not None:
            return gx
        value = d(*saved)
        return g * (conj(value) if node.dtype.kind == "c" else value)


class Binary(Elementwise):
    """An elementwise op of two inputs, which broadcast."""

    def __init__(self, name: str, kernel: Any, da: Any, db: Any, floating: bool, doc: str) -> None:
        super().__init__(name, kernel, floating, doc)
        self.da, self.db = da, db
        self.names_a, self.names_b = _names(da), _names(db)
        self.both = tuple(dict.fromkeys(self.names_a + self.names_b))
        self.places_a = tuple(map(self.both.index, self.names_a))
        self.places_b = tuple(map(self.both.index, self.names_b))
        self.alone_a, self.alone_b = tuple(range(len(self.names_a))), tuple(range(len(self.names_b)))
        codes = {"a": _A, "b": _B, "y": _Y}
        self.codes_a, self.codes_b, self.codes = (
            tuple([codes[name] for name in names]) for names in (self.names_a, self.names_b, self.both))
        self.public = {"a": "self", "b": "other", "y": "result"}

    def __call__(self, a: Any, b: Any) -> Any:
        flags = state.flags
        if flags & (DUAL | INFERENCE) == 0 and isinstance(a, TensorBase) and isinstance(b, TensorBase):
            x, y = a.array, b.array
            if x.dtype is y.dtype and x.__class__ is y.__class__ and (not self.floating or x.dtype.kind in "fc"):
                return self._recorded(a, b, self._computed(x, y, x), flags)
        if flags & INFERENCE and b.__class__ is float and isinstance(a, TensorBase) and a.array.dtype.kind == "f":
            out = self.kernels[a.array.__class__](a.array, b)  # the shortest way: nothing to promote or to record
            if out.__class__ is a.array.__class__:
                return wrap(out, None, INFERENCE_VERSION)
        a_tensor = isinstance(a, TensorBase)
        b_tensor = isinstance(b, TensorBase)
        if flags & (DUAL | INFERENCE) and (a_tensor or b_tensor):
            return self._infer(a, b) if flags & INFERENCE else dual.apply(self, (a, b), {})
        x = a.array if a_tensor else a
        y = b.array if b_tensor else b
        if a_tensor and b_tensor:
            if x.dtype is not y.dtype or (self.floating and x.dtype.kind not in "fc"):
                a, b = self._promoted(a, b)
                x, y = a.array, b.array
        elif a_tensor or b_tensor:
            if not ((y if a_tensor else x).__class__ is float and (x if a_tensor else y).dtype.kind == "f"):
                a, b = self._mixed(a, b)
                a_tensor, b_tensor = isinstance(a, TensorBase), isinstance(b, TensorBase)
                x = a.array if a_tensor else a
                y = b.array if b_tensor else b
        else:
            return self.kernels[(b if isinstance(a, NUMBERS) else a).__class__](a, b)
        like = x if a_tensor else y
        if a_tensor and b_tensor and x.__class__ is not y.__class__:
            raise device_error(self.name, x, y)
        return self._recorded(a, b, self._computed(x, y, like), flags)

    def _computed(self, x: Any, y: Any, like: Any) -> Any:
        """The kernel's result as an array."""
        try:
            out = self.kernels[like.__class__](x, y)
        except TypeError as error:
            raise _undefined(self.name, error, x, y) from error
        return out if out.__class__ is like.__class__ else of(like).xp.asarray(out)

    def _recorded(self, a: Any, b: Any, out: Any, flags: int) -> Any:
        """The result as a tensor, with a node if an operand wants a gradient."""
        edge_a = edge_b = None
        if isinstance(a, TensorBase):
            edge_a = a.fn
            if edge_a is None and a._rg:
                edge_a = a
        if isinstance(b, TensorBase):
            edge_b = b.fn
            if edge_b is None and b._rg:
                edge_b = b
        if (edge_a is None and edge_b is None) or not flags & GRAD or self.da is None:
            return wrap(out)
        node = Node(self, (edge_a, edge_b))
        node.shape = out.shape
        node.dtype = out.dtype
        made = wrap(out, node)
        codes = self.codes_a if edge_b is None else self.codes_b if edge_a is None else self.codes
        if codes:
            _keep(node, codes, a, b, made)
        if flags & EXTRAS:
            record_extras(node, flags, (made,))
        return made

    def _infer(self, a: Any, b: Any) -> Any:
        """In inference mode: no edges, no version, no node."""
        if isinstance(a, TensorBase) and isinstance(b, TensorBase):
            a, b = self._promoted(a, b)
        else:
            a, b = self._mixed(a, b)
        if not isinstance(b, TensorBase):
            return _inferred(self.kernels[a.array.__class__](a.array, b), a.array)
        x, y = a.array if isinstance(a, TensorBase) else a, b.array
        if isinstance(a, TensorBase) and x.__class__ is not y.__class__:
            raise device_error(self.name, x, y)
        return _inferred(self.kernels[y.__class__](x, y), y)

    def _promoted(self, a: Any, b: Any) -> tuple[Any, Any]:
        """Two tensors brought to one dtype."""
        x, y = a.array, b.array
        if x.dtype is y.dtype and not (self.floating and x.dtype.kind not in "fc"):
            return a, b
        dtype = result_type(x.dtype, x.ndim > 0, y.dtype, y.ndim > 0)
        if self.floating:
            dtype = float_dtype(dtype)
        return (a if x.dtype == dtype else cast(a, dtype)), (b if y.dtype == dtype else cast(b, dtype))

    def _mixed(self, a: Any, b: Any) -> tuple[Any, Any]:
        """A tensor and a number or raw array: numbers stay numbers where numpy treats them alike."""
        first = isinstance(a, TensorBase)
        tensor, other = (a, b) if first else (b, a)
        if not isinstance(other, NUMBERS) or type(other) not in NUMBERS:
            other = _as_operand(self.name, tensor, other)
        if isinstance(other, TensorBase):
            pair = self._promoted(tensor, other) if first else self._promoted(other, tensor)
            return pair
        dtype = scalar_result(tensor.array.dtype, other)
        if self.floating:
            dtype = float_dtype(dtype)
        if tensor.array.dtype != dtype and not (dtype.kind == "c" and tensor.array.dtype.kind == "f"):
            tensor = cast(tensor, dtype)
        return (tensor, other) if first else (other, tensor)

    def _kept(self, node: Node) -> tuple[str, ...]:
        edge_a, edge_b = node.edges
        return self.both if edge_a is not None and edge_b is not None else \
            (self.names_a if edge_b is None else self.names_b)

    def saved_names(self, node: Node) -> tuple[str, ...]:
        """What `node` keeps, under the names of its `_saved_` attributes."""
        return tuple([self.public[name] for name in self._kept(node)])

    def vjp(self, node: Node, g: Any) -> tuple[Any, Any]:
        """(g * conj(da), g * conj(db)), each only where an input wants it."""
        edge_a, edge_b = node.edges
        saved = unpack(node) if node.values else ()
        if edge_b is None:
            return _times(g, self.da, node, saved, self.alone_a), None
        if edge_a is None:
            return None, _times(g, self.db, node, saved, self.alone_b)
        return _times(g, self.da, node, saved, self.places_a), _times(g, self.db, node, saved, self.places_b)


def _inferred(out: Any, like: Any) -> Any:
    """An inference tensor over a kernel's result."""
    return wrap(out if out.__class__ is like.__class__ else of(like).xp.asarray(out), None, INFERENCE_VERSION)


def _as_operand(name: str, tensor: Any, other: Any) -> Any:
    """A raw array beside a tensor, as a tensor; numpy's scalars as numbers; anything else is no operand."""
    backend = of(tensor.array)
    if isinstance(other, backend.scalar_types):
        return other.item()
    if isinstance(other, backend.array_type):
        return wrap(other)
    if isinstance(other, DeviceArray):
        raise device_error(name, tensor.array, other)
    raise TypeError(f"{name}: a tensor and {type(other).__name__} do not go together")


def device_error(name: str, x: Any, y: Any) -> RuntimeError:
    """Operands on two devices."""
    return RuntimeError(f"{name}: one operand is on {device_of(x)}, the other on {device_of(y)}; "
                        "bring them to one device with .to()")


def unary(name: str, kernel: str | Callable[..., Any], d: Any = None, *, floating: bool = True,
          doc: str = "") -> Unary:
    """Declare an elementwise op of one input; `d=None` means that it has no derivative."""
    return Unary(name, kernel, d, floating, doc or f"{name} of each element.")


def binary(name: str, kernel: str | Callable[..., Any], da: Any, db: Any, *, floating: bool = False,
           doc: str = "") -> Binary:
    """Declare an elementwise op of two inputs with broadcasting; derivatives by either input."""
    return Binary(name, kernel, da, db, floating, doc or f"{name}, element by element, with broadcasting.")


def compare(name: str, kernel: str) -> Binary:
    """Declare a comparison: boolean results, no derivative."""
    return Binary(name, kernel, None, None, False, f"{name}, element by element: a boolean tensor.")
