"""Function: a user's own operation, with forward and backward written on tensors.

Both of torch's styles: `forward(ctx, ...)`, or `forward(...)` with `setup_context(ctx, inputs, output)`.
The node of the call is the ctx; its rule is the user's backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .._tensor.core import Tensor
from .._tensor.creation import zeros
from ..graph import dual
from ..graph.base import TensorBase, edge_of, from_raw, new_like, wrap
from ..graph.extras import record_extras
from ..graph.modes import DUAL, EXTRAS, GRAD, INFERENCE, no_grad, state
from ..graph.node import Node, Port
from ..graph.saved import RELEASED, note_versions, unpack
from ..graph.version import check_in_place
from ..graph.views import rebase, renew_views

__all__ = ["Function", "FunctionCtx", "once_differentiable"]


class FunctionCtx(Node):
    """What forward, setup_context and backward get as `ctx`; any attribute may be set on it."""

    __slots__ = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep inputs, outputs or other tensors (or None) for backward, with a check of their versions.

        Raises:
            TypeError: something that is no tensor; set it as an attribute instead.
        """
        for t in tensors:
            if t is not None and not isinstance(t, TensorBase):
                raise TypeError(f"save_for_backward keeps tensors, got {type(t).__name__}; set numbers and other "
                                "objects as attributes of ctx")
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept.

        Raises:
            RuntimeError: it was freed, or changed in place since.
        """
        if self.values is RELEASED:
            unpack(self)
        flags, state.flags = state.flags, state.flags | GRAD
        try:
            return tuple(unpack(self))
        finally:
            state.flags = flags

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """For each argument of forward, whether a gradient is wanted."""
        return tuple(edge is not None for edge in self.edges)

    def mark_dirty(self, *tensors: Any) -> None:
        """These inputs were changed in place and are returned."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """These outputs have no gradient."""
        self._constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """False hands None, instead of zeros, to backward for outputs that got no gradient."""
        self._materialize = value

    def name(self) -> str:
        return f"{self.op.name}Backward"


class _Rule:
    """A user's backward as the engine calls it."""

    fresh = False

    def __init__(self, cls: type[Function]) -> None:
        self.cls = cls
        self.name = cls.__name__

    def vjp(self, ctx: FunctionCtx, g: Any) -> tuple[Any, ...]:
        given = list(g) if ctx.outputs > 1 else [g]
        raw = not any(isinstance(x, TensorBase) for x in given)
        shapes, dtypes = (ctx.shape, ctx.dtype) if ctx.outputs > 1 else ((ctx.shape,), (ctx.dtype,))
        grads = []
        for x, shape, dtype in zip(given, shapes, dtypes, strict=True):
            if x is None:
                x = zeros(shape, dtype=dtype) if ctx._materialize else None
            grads.append(x if x is None or isinstance(x, TensorBase) else from_raw(x))
        found = self.cls.backward(ctx, *grads)
        found = found if isinstance(found, tuple) else (found,)
        return self._checked(ctx, found, raw)

    def _checked(self, ctx: FunctionCtx, found: tuple[Any, ...], raw: bool) -> tuple[Any, ...]:
        wanted = len(ctx.edges)
        if len(found) > wanted and all(x is None for x in found[wanted:]):
            found = found[:wanted]
        if len(found) != wanted:
            raise RuntimeError(f"{self.name}.backward returned {len(found)} gradients, forward took {wanted} arguments")
        out = []
        for position, (x, dtype) in enumerate(zip(found, ctx._dtypes, strict=True)):
            if x is None:
                out.append(None)
                continue
            if not isinstance(x, TensorBase):
                raise RuntimeError(f"{self.name}.backward returned {type(x).__name__} as gradient {position}; give a "
                                   "tensor or None")
            if dtype is None:
                raise RuntimeError(f"{self.name}.backward returned a gradient for argument {position}, which was no "
                                   "tensor; return None for it")
            if x.dtype.kind == "c" and dtype.kind != "c":
                raise RuntimeError(f"{self.name}.backward returned a gradient of dtype {x.dtype} for argument "
                                   f"{position}, which is {dtype}; return its real part")
            out.append(x.array if raw else x)
        return tuple(out)


class Function:
    """Base of user-defined operations; call them with `MyFunction.apply(...)`.

    Subclasses define static methods: `forward(ctx, *args)` and `backward(ctx, *grad_outputs)`, or
    `forward(*args)`, `setup_context(ctx, inputs, output)` and `backward`. backward returns one gradient
    (or None) for each argument of forward.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the result from tensors; nothing inside is recorded."""
        raise NotImplementedError("define forward as a static method")

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> Any:
        """Keep what backward needs, where forward takes no ctx."""
        raise NotImplementedError("define setup_context as a static method")

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        """The gradients of the inputs from those of the outputs."""
        raise NotImplementedError("define backward as a static method")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward; record the call when an argument requires grad in grad mode."""
        flags = state.flags
        if flags & DUAL:
            return dual.apply(cls.apply, args, {})
        live = flags & (GRAD | INFERENCE) == GRAD and any(
            isinstance(a, TensorBase) and edge_of(a) is not None for a in args)
        rule = cls.__dict__.get("_rule")
        if rule is None:
            rule = cls._rule = _Rule(cls)
        ctx = FunctionCtx(rule, tuple(edge_of(a) if live and isinstance(a, TensorBase) else None for a in args))
        ctx._to_save, ctx._dirty, ctx._constant, ctx._materialize = (), (), (), True
        ctx._dtypes = tuple(a.dtype if isinstance(a, TensorBase) else None for a in args)
        with no_grad():
            if cls.setup_context is Function.setup_context:
                output = cls.forward(ctx, *args)
            else:
                output = cls.forward(*args)
                cls.setup_context(ctx, args, output)
        several = isinstance(output, tuple)
        outputs = output if several else (output,)
        made = _Outputs(cls, ctx, args, outputs, live).attach()
        if live and flags & EXTRAS:
            record_extras(ctx, flags, tuple(t for t in made if isinstance(t, TensorBase)))
        return tuple(made) if several else made[0]


class _Outputs:
    """The results of one call, being tied to their node."""

    def __init__(self, cls: type[Function], ctx: FunctionCtx, args: tuple[Any, ...], outputs: tuple[Any, ...],
                 live: bool) -> None:
        self.cls, self.ctx, self.args, self.outputs, self.live = cls, ctx, args, outputs, live

    def attach(self) -> list[Any]:
        ctx = self.ctx
        for t in ctx._dirty:
            if not any(t is x for x in self.outputs):
                raise RuntimeError(f"{self.cls.__name__}: a tensor marked dirty must be returned by forward")
            if self.live:
                check_in_place(t, self.cls.__name__)
            t.bump()
        tensors = [y for y in self.outputs if isinstance(y, TensorBase)]
        if not tensors:
            raise TypeError(f"{self.cls.__name__}.forward returned no tensor but {type(self.outputs[0]).__name__}")
        if not self.live:
            return list(self.outputs)
        ctx.outputs = len(tensors)
        ctx.shape = tuple(y.shape for y in tensors) if len(tensors) > 1 else tensors[0].shape
        ctx.dtype = tuple(y.dtype for y in tensors) if len(tensors) > 1 else tensors[0].dtype
        number = 0
        made = []
        for y in self.outputs:
            if not isinstance(y, TensorBase):
                made.append(y)
                continue
            sink = ctx if len(tensors) == 1 else Port(ctx, number)
            number += 1
            made.append(self._one(y, sink))
        self._save(tensors, [t for t in made if isinstance(t, TensorBase)])
        return made

    def _one(self, y: Any, sink: Any) -> Any:
        if any(y is t for t in self.ctx._constant) or y.dtype.kind not in "fc":
            return new_like(y) if any(y is a for a in self.args) else y
        if any(y is t for t in self.ctx._dirty):
            if y._view is not None:
                rebase(y, wrap(y.array, sink))
            else:
                y.fn, y._rg = sink, False
                renew_views(y)
            return y
        if any(y is a for a in self.args):  # an input returned as it is: the same memory at a new place
            return new_like(y, sink)
        y.fn, y._rg = sink, False
        return y

    def _save(self, outputs: list[Any], made: list[Any]) -> None:
        ctx = self.ctx
        values = list(ctx._to_save)
        own = []
        for position, t in enumerate(values):
            for number, y in enumerate(outputs):
                if t is y and t is not None and not any(t is a for a in self.args):
                    own.append((position, number))
                    values[position] = t.array
                    break
        ctx._to_save = ()
        ctx.values = tuple(values)
        ctx.own = tuple(own)
        note_versions(ctx, tuple(made))


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a backward that cannot itself be differentiated: doing so raises, instead of being wrong."""

    @functools.wraps(backward)
    def inside(ctx: Any, *grads: Any) -> Any:
        recording = state.flags & GRAD
        with no_grad():
            found = backward(ctx, *grads)
        if not recording or not any(isinstance(g, Tensor) and g.requires_grad for g in grads):
            return found
        several = isinstance(found, tuple)
        blocked = tuple(_Blocked.apply(g.detach().requires_grad_()) if isinstance(g, Tensor) else g
                        for g in (found if several else (found,)))
        return blocked if several else blocked[0]

    return inside


class _Blocked(Function):
    """Passes a gradient on and refuses to be differentiated."""

    @staticmethod
    def forward(ctx: FunctionCtx, g: Any) -> Any:
        return wrap(g.array)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Any) -> Any:
        raise RuntimeError("this gradient comes from a backward marked once_differentiable: it has no derivative")
