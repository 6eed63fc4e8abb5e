"""Views: tensors that share memory, and what an in-place write through one does to the others' history.

A view remembers the operations that lead to it from its base (`chain`), so that it can be made again:
on a gradient, to find the part that belongs to it, and on a base whose history has changed.
"""

from __future__ import annotations

import weakref
from typing import Any

from ..backend import of
from .base import INFERENCE_VERSION, TensorBase, edge_of, wrap
from .hooks import move_retained
from .modes import GRAD, INFERENCE, state
from .node import Node

__all__ = ["CopySlices", "ViewInfo", "mark_views", "rebase", "renew_views", "set_history"]

Step = tuple[Any, tuple[Any, ...], dict[str, Any], int | None]
_FEW = 16


class ViewInfo:
    """What makes a tensor a view.

    Attributes:
        base: the tensor that owns the history of the memory; never itself a view.
        chain: the operations from base to view: (Function, further inputs, constants, output number).
        multi: it is (part of) one of several outputs of one operation (`split`, `unbind`).
        recorded: it, and what it is a view of, were made in grad mode.
    """

    __slots__ = ("base", "chain", "multi", "recorded")

    def __init__(self, base: TensorBase, chain: tuple[Step, ...], multi: bool, recorded: bool) -> None:
        self.base = base
        self.chain = chain
        self.multi = multi
        self.recorded = recorded


def mark_views(made: Any, cls: Any, inputs: tuple[Any, ...], constants: dict[str, Any]) -> None:
    """Results of a view operation that share the first input's memory become views: same version, same base."""
    several = made.__class__ is tuple
    source = inputs[0]
    parent = source._view
    recorded = state.flags & (GRAD | INFERENCE) == GRAD
    base, chain, multi = source, (), several
    if parent is not None:
        base, chain = parent.base, parent.chain
        recorded, multi = recorded and parent.recorded, multi or parent.multi
    memory = source.array
    for number, t in enumerate(made if several else (made,)):
        owner = t.array.base
        if t.array is not memory and (owner is None or (owner is not memory and owner is not memory.base)):
            continue  # this time the operation had to copy
        t.version = source.shared_version()
        if t.version is INFERENCE_VERSION:
            continue
        step = (cls, inputs[1:], constants, number if several else None)
        t._view = ViewInfo(base, (*chain, step), multi, recorded)
        if recorded and not base._rg:
            _register(base, t)


def _register(base: Any, view: Any) -> None:
    """Let the base find its views, for as long as they live."""
    known = base.__dict__.setdefault("_views", [])
    if len(known) >= _FEW and len(known) & (len(known) - 1) == 0:  # at powers of two: constant cost on average
        known[:] = [reference for reference in known if reference() is not None]
    known.append(weakref.ref(view))


def _replay(chain: tuple[Step, ...], x: Any) -> Any:
    """The view's part of an array, or of a tensor (recorded)."""
    for cls, inputs, constants, number in chain:
        x = cls.apply(x, *inputs, **constants)
        if number is not None:
            x = x[number]
    return x


class CopySlices:
    """The rule of a base into which a view was written: the region's gradient goes to what was written."""

    name = "CopySlices"
    fresh = False

    @staticmethod
    def vjp(node: Any, g: Any) -> tuple[Any, Any]:
        """(gradient of the base before the write: zero in the region, gradient of what was written)."""
        before = None if node.edges[0] is None else _outside(node.chain, node.axes, g)
        return before, _replay(node.chain, g)


class _Outside:
    """The rule of `_outside`, which is its own transpose."""

    name = "Outside"
    fresh = True

    @staticmethod
    def vjp(node: Any, g: Any) -> Any:
        return _outside(node.chain, node.axes, g)


class _RegionNode(Node):
    """A node that knows a region of its output: the view that `chain` makes of memory ordered as `axes` says."""

    __slots__ = ("axes", "chain")

    chain: tuple[Step, ...]
    axes: tuple[int, ...]   # the dimensions, outermost in memory first

    def name(self) -> str:
        return self.op.name


def _outside(chain: tuple[Step, ...], axes: tuple[int, ...], g: Any) -> Any:
    """A gradient with zeros in the region of a view."""
    if isinstance(g, TensorBase):
        edge = edge_of(g) if state.flags & GRAD else None
        node = None
        if edge is not None:
            node = _RegionNode(_Outside, (edge,))
            node.chain, node.axes, node.shape, node.dtype = chain, axes, g.shape, g.dtype
        return wrap(_outside(chain, axes, g.array), node)
    # Memory in the base's order: in another one a step of the chain might have to copy.
    memory = of(g).xp.empty([g.shape[axis] for axis in axes], g.dtype)
    result = memory.transpose([axes.index(axis) for axis in range(len(axes))])
    result[...] = g
    _replay(chain, result)[...] = 0
    return result


def rebase(view: Any, written: Any) -> None:
    """The view's memory now holds `written`: give the base, and all its views, the history of that."""
    info = view._view
    base = info.base
    node = _RegionNode(CopySlices, (edge_of(base), edge_of(written)))
    strides = base.array.strides
    node.chain, node.axes = info.chain, tuple(sorted(range(len(strides)), key=lambda axis: -abs(strides[axis])))
    node.shape, node.dtype = base.shape, base.dtype
    set_history(base, node)
    _renew(view, base)
    renew_views(base)


def set_history(t: Any, fn: Any) -> None:
    """An in-place write made `fn` the tensor's node; a retained gradient is that of its new value."""
    if t.fn is not None:
        move_retained(t, t.fn, fn)
    t.fn, t._rg = fn, False


def renew_views(base: Any) -> None:
    """The base has a new history: its views take theirs from it."""
    for reference in base.__dict__.get("_views", ()):
        view = reference()
        if view is not None:
            _renew(view, base)


def _renew(view: Any, base: Any) -> None:
    plain = wrap(base.array, base.fn)  # no view registration on the way
    set_history(view, _replay(view._view.chain, plain).fn)
