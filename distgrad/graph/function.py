"""Function: an operation with forward and vjp over raw arrays. `apply` runs it and records it.

`forward(ctx, *inputs, **constants)` gets raw arrays and `vjp(ctx, g)` the cotangent of the output;
both are written with operators and ops, so that the same vjp runs on Tensors under create_graph.
With no tensor among the inputs, raw arrays go in and raw arrays come out: rules call ops that way.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..backend import of, when_several
from . import dual
from .base import INFERENCE_VERSION, TensorBase, wrap
from .extras import record_extras
from .modes import DUAL, EXTRAS, GRAD, INFERENCE, state
from .node import Node, Port
from .places import beside, refuse_mixed
from .saved import resolve
from .views import mark_views

__all__ = ["Alias", "Function", "Scratch", "alias", "finish_inference"]


class Scratch:
    """The ctx of an operation that is not recorded: keeps nothing."""

    edges: tuple[Any, ...] = ()

    def save(self, *values: Any) -> None:
        """Nothing is kept."""

    def needs(self, index: int) -> bool:
        """No input wants a gradient."""
        return False


class Function:
    """Base of operations. Subclasses define `forward` and `vjp` as functions of (ctx, ...).

    Attributes:
        name: torch's name for the operation, from which `grad_fn` takes its own.
        view: results may share the first input's memory.
        fresh: vjp never returns memory that is kept elsewhere (saved, or returned twice).
    """

    name: ClassVar[str] = ""
    view: ClassVar[bool] = False
    fresh: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        for method in ("forward", "vjp"):
            if method in cls.__dict__ and not isinstance(cls.__dict__[method], staticmethod):
                setattr(cls, method, staticmethod(cls.__dict__[method]))

    @staticmethod
    def forward(ctx: Any, *inputs: Any, **constants: Any) -> Any:
        """Compute the result (or a tuple of results) from raw arrays; `ctx.save` what vjp needs."""
        raise NotImplementedError

    @staticmethod
    def vjp(ctx: Any, g: Any) -> Any:
        """The gradients of the inputs for cotangent g: one, or a tuple with one for each input."""
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: Any, **constants: Any) -> Any:
        """Run the operation, and record it when an input requires grad in grad mode."""
        arrays = []
        edges = []
        first = None
        live = False
        for x in inputs:
            if isinstance(x, TensorBase):
                if first is None:
                    first = x
                arrays.append(x.array)
                edge = x.fn
                if edge is None and x._rg:
                    edge = x
                if edge is not None:
                    live = True
                edges.append(edge)
            else:
                arrays.append(x)
                edges.append(None)
        if first is None:
            return cls.forward(Scratch(), *arrays, **constants)
        flags = state.flags
        if flags & DUAL:
            return dual.apply(cls.apply, inputs, constants)
        if not live or flags & (GRAD | INFERENCE) != GRAD:
            try:
                out = cls.forward(Scratch(), *arrays, **constants)
            except TypeError:
                refuse_mixed(cls.name, inputs)
                raise
            made = tuple(wrap(_array(y)) for y in out) if out.__class__ is tuple else wrap(_array(out))
            if cls.view:
                mark_views(made, cls, inputs, constants)
            if flags & INFERENCE:
                finish_inference(made)
            return made
        node = Node(cls, tuple(edges))
        try:
            out = cls.forward(node, *arrays, **constants)
        except TypeError:
            refuse_mixed(cls.name, inputs)
            raise
        if out.__class__ is tuple:
            made = _finish_many(node, out)
        else:
            if out.__class__ is not first.array.__class__:
                out = _array(out)
            node.shape, node.dtype = out.shape, out.dtype
            made = wrap(out, node if out.dtype.kind in "fc" else None)
        if node.values:
            resolve(node, inputs, arrays, made if made.__class__ is tuple else (made,))
        if cls.view:
            mark_views(made, cls, inputs, constants)
        if flags & EXTRAS:
            record_extras(node, flags, made if made.__class__ is tuple else (made,))
        return made


def _follow() -> None:
    """There are several devices of one kind: from now on, an operation runs on that of its tensors."""
    plain = Function.apply.__func__  # type: ignore[attr-defined]

    def apply(cls: type[Function], *inputs: Any, **constants: Any) -> Any:
        with beside(inputs, cls.name):
            return plain(cls, *inputs, **constants)

    Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]


when_several(_follow)


class Alias(Function):
    """The same values at a new place in the graph."""

    fresh = False

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x

    @staticmethod
    def vjp(ctx: Any, g: Any) -> Any:
        return g


def alias(x: Any) -> Any:
    """`x` behind a node of its own."""
    return Alias.apply(x)


def _array(out: Any) -> Any:
    """A numpy scalar (what a reduction to 0-d gives) as a 0-d array."""
    backend = of(out)
    return out if out.__class__ is backend.array_type else backend.xp.asarray(out)


def _finish_many(node: Node, out: tuple[Any, ...]) -> tuple[Any, ...]:
    """Outputs of an operation that has several; integer outputs (indices) have no gradient."""
    arrays = [_array(y) for y in out]
    node.outputs = len(arrays)
    node.shape = tuple(y.shape for y in arrays)
    node.dtype = tuple(y.dtype for y in arrays)
    if len(arrays) == 1:
        node.shape, node.dtype = node.shape[0], node.dtype[0]
        return (wrap(arrays[0], node),)
    return tuple(wrap(y, Port(node, i) if y.dtype.kind in "fc" else None) for i, y in enumerate(arrays))


def finish_inference(made: Any) -> None:
    """Results inside inference mode are inference tensors, except views of normal tensors."""
    for t in made if made.__class__ is tuple else (made,):
        if t._view is None:
            t.version = INFERENCE_VERSION
