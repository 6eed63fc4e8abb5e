"""Saved-tensor hooks: what is saved for backward passes through pack, and comes back through unpack."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .base import TensorBase, edge_of, wrap
from .modes import PACKING, Mode, no_grad, state

__all__ = ["disable_saved_tensors_hooks", "pack", "saved_tensors_hooks", "unpacked"]


class _Thread(threading.local):
    def __init__(self) -> None:
        self.hooks: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = []
        self.refusal: str | None = None


_thread = _Thread()


class saved_tensors_hooks(Mode):
    """Inside, each tensor saved for backward is given to `pack_hook`, and what that returns is kept.

    When backward needs the value, `unpack_hook` gets it back and returns a tensor of the same content.
    The innermost pair counts.

    Raises:
        RuntimeError: inside `disable_saved_tensors_hooks`.
        TypeError: (in backward) unpack_hook returned no tensor.
    """

    flags_on = PACKING

    def __init__(self, pack_hook: Callable[[Any], Any], unpack_hook: Callable[[Any], Any]) -> None:
        self.pack_hook = pack_hook
        self.unpack_hook = unpack_hook

    def _fresh(self) -> Mode:
        return type(self)(self.pack_hook, self.unpack_hook)

    def __enter__(self) -> None:
        if _thread.refusal is not None:
            raise RuntimeError(_thread.refusal)
        super().__enter__()
        _thread.hooks.append((self.pack_hook, self.unpack_hook))

    def __exit__(self, *exc: object) -> None:
        _thread.hooks.pop()
        super().__exit__(*exc)


class disable_saved_tensors_hooks(Mode):
    """Inside, `saved_tensors_hooks` raises RuntimeError with `error_message`."""

    def __init__(self, error_message: str) -> None:
        self.error_message = error_message

    def _fresh(self) -> Mode:
        return type(self)(self.error_message)

    def __enter__(self) -> None:
        if _thread.hooks:
            raise RuntimeError(self.error_message)
        super().__enter__()
        self._before, _thread.refusal = _thread.refusal, self.error_message

    def __exit__(self, *exc: object) -> None:
        _thread.refusal = self._before
        super().__exit__(*exc)


class _Packed:
    """A saved tensor in the user's form, with the place in the graph that its value has."""

    __slots__ = ("edge", "unpack", "value")

    def __init__(self, value: Any, unpack: Callable[[Any], Any], edge: Any) -> None:
        self.value = value
        self.unpack = unpack
        self.edge = edge


_OWN = object()  # instead of an edge: the value is an array of the rule's own and comes back as one


class _PassOn:
    """The rule of a node that only leads a gradient to a leaf."""

    name = "Alias"
    fresh = False

    @staticmethod
    def vjp(node: Any, g: Any) -> Any:
        return g


def pack(node: Any) -> None:
    """Replace the saved tensors of a new node by what the innermost pack hook makes of them."""
    from .node import Port

    pack_hook, unpack_hook = _thread.hooks[-1]
    own = dict(node.own)
    values = list(node.values)
    flags, state.flags = state.flags, state.flags & ~PACKING
    try:
        for position, value in enumerate(values):
            if isinstance(value, TensorBase):
                edge = edge_of(value)
            elif position in own:
                edge = node if node.outputs == 1 else Port(node, own[position])
                value = wrap(value)
            elif getattr(value, "ndim", 0):  # an array of the rule's own: gates, a mask, a normalised input
                edge, value = _OWN, wrap(value)
            else:
                continue
            before = value.shared_version()[0]
            with no_grad():
                kept = pack_hook(value)
            if value.shared_version()[0] != before:
                raise RuntimeError(f"{node.name()}: the pack hook changed the tensor that is to be saved (shape "
                                   f"{tuple(value.shape)}) in place; change a clone() of it")
            # The node's own output: an edge to itself would be a cycle, so it is put in when unpacked.
            values[position] = _Packed(kept, unpack_hook, None if position in own else edge)
    finally:
        state.flags = flags
    node.values = tuple(values)
    node.expected = ()
    node.packed = True


def unpacked(node: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Saved values with the user's forms turned back into tensors at their places in the graph."""
    from .node import Node, Port

    own = dict(node.own)
    out = list(values)
    for position, value in enumerate(values):
        if not isinstance(value, _Packed):
            continue
        with no_grad():
            found = value.unpack(value.value)
        if not isinstance(found, TensorBase):
            raise TypeError(f"{node.name()}: an unpack hook returns a tensor, got {type(found).__name__}")
        edge = value.edge
        if edge is _OWN:
            out[position] = found.array
            continue
        if position in own:
            edge = node if node.outputs == 1 else Port(node, own[position])
        elif isinstance(edge, TensorBase):
            leaf, edge = edge, Node(_PassOn, (edge,))
            edge.shape, edge.dtype = leaf.shape, leaf.dtype
        out[position] = wrap(found.array, edge)
    return tuple(out)
