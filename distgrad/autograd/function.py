"""Function: a user's own operation, with forward and backward written on tensors.

Both of torch's styles: `forward(ctx, ...)`, or `forward(...)` with `setup_context(ctx, inputs, output)`.
Each call makes a node, which owns the ctx; its rule is the user's backward.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

from .._tensor.core import Tensor
from .._tensor.creation import zeros
from ..graph import dual
from ..graph.base import TensorBase, edge_of, from_raw, new_like, wrap
from ..graph.extras import record_extras
from ..graph.modes import DUAL, EXTRAS, GRAD, INFERENCE, no_grad, state
from ..graph.node import Node, Port
from ..graph.saved import note_versions, unpack
from ..graph.version import check_in_place
from ..graph.views import ViewInfo, rebase, renew_views, set_history

__all__ = ["Function", "FunctionCtx", "once_differentiable"]


class FunctionCtx:
    """What forward, setup_context and backward get as `ctx`; any attribute may be set on it."""

    def __init__(self, node: _UserNode, args: tuple[Any, ...]) -> None:
        self._node = weakref.ref(node)
        self._dtypes = tuple([a.dtype if isinstance(a, TensorBase) else None for a in args])
        self._to_save: tuple[Any, ...] = ()
        self._dirty: tuple[Any, ...] = ()
        self._constant: tuple[Any, ...] = ()
        self._materialize = True

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
        node = self._node()
        assert node is not None, "the call's node is gone"
        flags, state.flags = state.flags, state.flags | GRAD
        try:
            return tuple(unpack(node))
        finally:
            state.flags = flags

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """For each argument of forward, whether a gradient is wanted."""
        node = self._node()
        edges = iter(() if node is None else node.edges)
        return tuple(dtype is not None and next(edges, None) is not None for dtype in self._dtypes)

    def mark_dirty(self, *tensors: Any) -> None:
        """These inputs were changed in place and are returned."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        """These outputs have no gradient."""
        self._constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """False hands None, instead of zeros, to backward for outputs that got no gradient."""
        self._materialize = value


class _UserNode(Node):
    """The node of one call. It owns the ctx, so that no name which a user sets there can be one of the node's."""

    __slots__ = ("ctx",)

    ctx: FunctionCtx

    def name(self) -> str:
        return f"{self.op.name}Backward"

    def __getattr__(self, name: str) -> Any:
        if name == "ctx":
            raise AttributeError(name)
        if name.startswith("_saved_"):
            return super().__getattr__(name)
        return getattr(self.ctx, name)  # what a user had set on ctx, or its saved_tensors, read from grad_fn


class _Rule:
    """A user's backward as the engine calls it."""

    fresh = False

    def __init__(self, cls: type[Function]) -> None:
        self.cls = cls
        self.name = cls.__name__

    def vjp(self, node: _UserNode, g: Any) -> tuple[Any, ...]:
        given = list(g) if node.outputs > 1 else [g]
        raw = not any(isinstance(x, TensorBase) for x in given)
        shapes, dtypes = (node.shape, node.dtype) if node.outputs > 1 else ((node.shape,), (node.dtype,))
        grads = []
        for x, shape, dtype in zip(given, shapes, dtypes, strict=True):
            if x is None and node.ctx._materialize and dtype is not None:
                x = zeros(shape, dtype=dtype)
            grads.append(x if x is None or isinstance(x, TensorBase) else from_raw(x))
        found = self.cls.backward(node.ctx, *grads)
        return self._checked(node.ctx._dtypes, found if isinstance(found, tuple) else (found,), raw)

    def _checked(self, dtypes: tuple[Any, ...], found: tuple[Any, ...], raw: bool) -> tuple[Any, ...]:
        """The gradients of the arguments that are tensors."""
        wanted = len(dtypes)
        if len(found) > wanted and all(x is None for x in found[wanted:]):
            found = found[:wanted]
        if len(found) != wanted:
            raise RuntimeError(f"{self.name}.backward returned {len(found)} gradients, forward took {wanted} arguments")
        out = []
        for position, (x, dtype) in enumerate(zip(found, dtypes, strict=True)):
            if x is not None and not isinstance(x, TensorBase):
                raise RuntimeError(f"{self.name}.backward returned {type(x).__name__} as gradient {position}; give a "
                                   "tensor or None")
            if dtype is None:
                if x is not None:
                    raise RuntimeError(f"{self.name}.backward returned a gradient for argument {position}, which was "
                                       "no tensor; return None for it")
                continue
            if x is not None and x.dtype.kind == "c" and dtype.kind != "c":
                raise RuntimeError(f"{self.name}.backward returned a gradient of dtype {x.dtype} for argument "
                                   f"{position}, which is {dtype}; return its real part")
            out.append(x.array if raw and x is not None else x)
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

    def __call__(self, *args: Any) -> Any:
        raise RuntimeError(f"{type(self).__name__} is not called as an instance: use {type(self).__name__}.apply(...), "
                           "with forward and backward as static methods")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward; record the call when an argument requires grad in grad mode."""
        flags = state.flags
        if flags & DUAL:
            return dual.apply(cls.apply, args, kwargs)
        with_ctx = cls.setup_context is Function.setup_context
        if not with_ctx and (kwargs or cls.forward.__defaults__):
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        live = flags & (GRAD | INFERENCE) == GRAD and any(
            isinstance(a, TensorBase) and edge_of(a) is not None for a in args)
        rule = cls.__dict__.get("_rule")
        if rule is None:
            rule = cls._rule = _Rule(cls)
        node = _UserNode(rule, tuple([edge_of(a) if live else None for a in args if isinstance(a, TensorBase)]))
        ctx = node.ctx = FunctionCtx(node, args)
        with no_grad():
            if with_ctx:
                output = cls.forward(ctx, *args, **kwargs)
            else:
                output = cls.forward(*args, **kwargs)
                cls.setup_context(ctx, args, output)
        several = isinstance(output, tuple)
        made = _Outputs(cls, node, args, output if several else (output,), live).attach()
        if live and flags & EXTRAS:
            record_extras(node, flags, tuple(t for t in made if isinstance(t, TensorBase)))
        return tuple(made) if several else made[0]


class _Outputs:
    """The results of one call, being tied to their node."""

    def __init__(self, cls: type[Function], node: _UserNode, args: tuple[Any, ...], outputs: tuple[Any, ...],
                 live: bool) -> None:
        self.cls, self.node, self.args, self.outputs, self.live = cls, node, args, outputs, live

    def attach(self) -> list[Any]:
        node, ctx, outputs = self.node, self.node.ctx, self.outputs
        for t in ctx._dirty:
            if not any(t is x for x in outputs):
                raise RuntimeError(f"{self.cls.__name__}: a tensor marked dirty must be returned by forward")
            if self.live:
                check_in_place(t, self.cls.__name__, live=True)
            t.bump()
        if not self.live:
            return [new_like(y) if self._is_input(y) else y for y in outputs]
        node.outputs = len(outputs)
        shapes = tuple([y.shape if isinstance(y, TensorBase) else None for y in outputs])
        dtypes = tuple([y.dtype if isinstance(y, TensorBase) else None for y in outputs])
        node.shape, node.dtype = (shapes[0], dtypes[0]) if len(outputs) == 1 else (shapes, dtypes)
        made = [self._one(y, node if len(outputs) == 1 else Port(node, number)) if isinstance(y, TensorBase) else y
                for number, y in enumerate(outputs)]
        self._save(made)
        return made

    def _is_input(self, y: Any) -> bool:
        """An input that is returned as it is; it becomes another tensor over the same memory."""
        return isinstance(y, TensorBase) and any(y is a for a in self.args) and not any(
            y is t for t in self.node.ctx._dirty)

    def _one(self, y: Any, sink: Any) -> Any:
        ctx = self.node.ctx
        if any(y is t for t in ctx._constant) or y.dtype.kind not in "fc":
            return new_like(y) if any(y is a for a in self.args) else y
        if any(y is t for t in ctx._dirty):
            if y._view is not None:
                rebase(y, wrap(y.array, sink))
            else:
                set_history(y, sink)
                renew_views(y)
            return y
        if self._is_input(y):
            made = new_like(y, sink)
            made._view = ViewInfo(y if y._view is None else y._view.base, (), True, True)  # not to be written to
            return made
        y.fn, y._rg = sink, False
        return y

    def _save(self, made: list[Any]) -> None:
        node = self.node
        values = list(node.ctx._to_save)
        own = []
        for position, t in enumerate(values):
            for number, y in enumerate(self.outputs):
                if t is y and t is not None and not any(t is a for a in self.args):
                    own.append((position, number))
                    values[position] = t.array
                    break
        node.ctx._to_save = ()
        node.values = tuple(values)
        node.own = tuple(own)
        note_versions(node, tuple(made))


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
