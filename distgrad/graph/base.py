"""TensorBase: what the graph needs of a tensor, and nothing that a user calls.

A tensor is a raw array plus its place in the graph. `fn` is where its gradient flows: the Node that
made it, a Port of a Node with several outputs, or None for a leaf. A leaf is itself the sink of its
gradient, so a graph that holds its edges keeps its leaves alive and there is no reference cycle.
"""

from __future__ import annotations

from typing import Any

from .._typing import Array, DType, Shape
from ..backend import of

__all__ = ["INFERENCE_VERSION", "LEAF", "TensorBase", "edge_of", "from_raw", "make", "new_like",
           "tensor_class", "wrap", "zeros_as"]

LEAF = 2  # `kind` of a leaf among the sinks of gradients; see node.NODE and node.PORT

# [Note: versions]
# A version is a list of one int, shared by all tensors over one storage. None stands for a version
# of 0 that nobody shares yet, so most tensors never make a list. Saving a tensor notes the number;
# unpacking compares. An inference tensor has this one object instead, which is never counted up.
INFERENCE_VERSION: list[int] = [-1]


class TensorBase:
    """Array, gradient, place in the graph, hooks. `tensor.Tensor` adds every public method."""

    __slots__ = ("__weakref__", "_grad", "_rg", "_view", "array", "fn", "hooks", "placement", "version")

    kind = LEAF

    array: Array                 # the raw array
    fn: Any                      # Node | Port | None
    _rg: bool                    # a leaf that requires grad
    _grad: TensorBase | None
    _view: Any                   # views.ViewInfo | None
    version: list[int] | None    # see [Note: versions]
    hooks: Any                   # hooks.LeafHooks | None, for leaves
    placement: Any               # flat.Placement | None: the memory in which the gradient lives

    @property
    def shape(self) -> Shape:
        """The size of each dimension."""
        return self.array.shape

    @property
    def dtype(self) -> DType:
        """The element type, a numpy dtype."""
        return self.array.dtype

    def bump(self) -> None:
        """Count one in-place change of the storage."""
        version = self.version
        if version is None:
            self.version = [1]
        elif version is not INFERENCE_VERSION:
            version[0] += 1

    def shared_version(self) -> list[int]:
        """The version's list, made if there is none yet: for views, and for saved outputs."""
        version = self.version
        if version is None:
            version = self.version = [0]
        return version


_new = object.__new__
_class: type[TensorBase] = TensorBase


def tensor_class(cls: type[TensorBase]) -> type[TensorBase]:
    """Class decorator: results of operations are of this class (the one Tensor class above)."""
    global _class
    _class = cls
    return cls


def make(cls: type[TensorBase], array: Array, fn: Any = None, requires_grad: bool = False) -> Any:
    """A tensor of class `cls` over a raw array, without any check."""
    t = _new(cls)
    t.array = array
    t.fn = fn
    t._rg = requires_grad
    t._grad = t._view = t.version = t.hooks = t.placement = None
    return t


def wrap(array: Array, fn: Any = None, version: list[int] | None = None) -> Any:
    """A Tensor over a raw array: a result (with `fn`) or a plain value (without)."""
    t = _new(_class)
    t.array = array
    t.fn = fn
    t._rg = False
    t.version = version
    t._grad = t._view = t.hooks = t.placement = None
    return t


def from_raw(g: Any) -> Any:
    """A Tensor over what a rule computed: arithmetic on 0-d numpy arrays yields scalars, not arrays."""
    return wrap(of(g).xp.asarray(g))


def zeros_as(g: Any) -> Any:
    """Zeros in the form of a gradient: raw, or a Tensor that depends on nothing."""
    if isinstance(g, TensorBase):
        return wrap(of(g.array).xp.zeros(g.shape, g.dtype))
    return of(g).xp.zeros(g.shape, g.dtype)


def new_like(t: TensorBase, fn: Any = None) -> Any:
    """Another Tensor over the same array and version, at another place in the graph."""
    other = wrap(t.array, fn)
    other.version = t.shared_version()
    return other


def edge_of(t: TensorBase) -> Any:
    """Where the gradient of `t` flows: Node, Port, the leaf itself, or None."""
    fn = t.fn
    return fn if fn is not None else (t if t._rg else None)


