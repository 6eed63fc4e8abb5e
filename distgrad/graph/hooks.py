"""Hooks: the callables that users and the reducer hang on leaves and nodes, and the order they run in.

Leaf: tensor hooks, AccumulateGrad prehooks, accumulate, post-accumulate hooks, posthooks, `last`.
Node: tensor hooks of its outputs, retained gradients, prehooks, the node, posthooks.
The engine touches this module only where a leaf or node has hooks at all.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import count
from typing import Any

from .base import TensorBase, from_raw

__all__ = ["LeafHooks", "NodeHooks", "RemovableHandle", "Table", "after_leaf", "after_node", "as_tensor", "before_leaf",
           "before_node", "leaf_hooks", "move_retained", "prehooks", "retain", "run_tensor_hooks"]

_next_id = count().__next__


class Table(dict[int, Callable[..., Any]]):
    """Hooks in the order of their registration."""

    __slots__ = ("__weakref__",)

    def add(self, hook: Callable[..., Any], *, first: bool = False) -> RemovableHandle:
        """Register a hook; the handle takes it out again."""
        if not callable(hook):
            raise TypeError(f"a hook is a callable, got {type(hook).__name__}")
        key = _next_id()
        if first:
            rest = dict(self)
            self.clear()
            self[key] = hook
            self.update(rest)
        else:
            self[key] = hook
        return RemovableHandle(self, key)

    def snapshot(self) -> tuple[Callable[..., Any], ...]:
        """The hooks as they are now, so that one may remove itself while they run."""
        return tuple(self.values())


class RemovableHandle:
    """Takes a hook out of its table; also a context manager that does so on leaving."""

    __slots__ = ("_table", "id")

    def __init__(self, table: Table, key: int) -> None:
        self._table = weakref.ref(table)
        self.id = key

    def remove(self) -> None:
        """Take the hook out; nothing happens when it is out already."""
        table = self._table()
        if table is not None:
            table.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class LeafHooks:
    """What is registered on one leaf."""

    __slots__ = ("last", "post", "post_accumulate", "pre", "tensor")

    def __init__(self) -> None:
        self.tensor = Table()            # hook(grad) -> grad | None
        self.pre = Table()               # hook((grad,)) -> (grad,) | None
        self.post_accumulate = Table()   # hook(leaf)
        self.post = Table()              # hook((), (grad,))
        self.last: Callable[[Any], None] | None = None   # the reducer's slot, after everything of the user's


class NodeHooks:
    """What is registered on one node and its outputs."""

    __slots__ = ("post", "pre", "retained", "tensor")

    def __init__(self) -> None:
        self.tensor: dict[int, Table] = {}                     # output number -> hook(grad) -> grad | None
        self.retained: dict[int, weakref.ref[TensorBase]] = {}  # output number -> tensor whose .grad is kept
        self.pre = Table()     # hook(grad_outputs) -> grad_outputs | None
        self.post = Table()    # hook(grad_inputs, grad_outputs) -> grad_inputs | None


def leaf_hooks(leaf: Any) -> LeafHooks:
    """A leaf's hooks, made when first asked for."""
    if leaf.hooks is None:
        leaf.hooks = LeafHooks()
    found: LeafHooks = leaf.hooks
    return found


def as_tensor(g: Any) -> Any:
    """A gradient as hooks see it: a Tensor."""
    return g if g is None or isinstance(g, TensorBase) else from_raw(g)


def _as_given(result: Any, given: Any) -> Any:
    """A hook's Tensor in the form in which the engine carries gradients: raw in a first-order pass."""
    return result if given is None or isinstance(given, TensorBase) else result.array


def run_tensor_hooks(table: Table, g: Any) -> Any:
    """Call hook(grad) for each; a returned tensor replaces the gradient.

    Raises:
        TypeError: a hook returned something that is no tensor.
        RuntimeError: a hook changed the gradient's shape or dtype.
    """
    for hook in table.snapshot():
        result = hook(as_tensor(g))
        if result is None:
            continue
        if not isinstance(result, TensorBase):
            raise TypeError(f"a tensor hook returns a tensor or None, {_name(hook)} returned {type(result).__name__}")
        if result.shape != g.shape or result.dtype != g.dtype:
            raise RuntimeError(f"tensor hook {_name(hook)} was given a gradient of shape {tuple(g.shape)} and dtype "
                               f"{g.dtype}, and returned one of shape {tuple(result.shape)} and dtype {result.dtype}")
        g = _as_given(result, g)
    return g


def _run_group(table: Table, kind: str, grads: tuple[Any, ...], call: Callable[..., Any]) -> tuple[Any, ...]:
    """Call hooks that see a tuple of gradients; a returned tuple replaces it."""
    for hook in table.snapshot():
        result = call(hook, tuple(as_tensor(g) for g in grads))
        if result is None:
            continue
        if isinstance(result, TensorBase):
            result = (result,)
        if not isinstance(result, tuple) or len(result) != len(grads):
            raise RuntimeError(f"the {kind} {_name(hook)} returns None or a tuple of {len(grads)} gradients")
        raw = not any(isinstance(g, TensorBase) for g in grads)
        grads = tuple(r.array if raw and isinstance(r, TensorBase) else r for r in result)
    return grads


def before_node(node: Any, g: Any) -> Any:
    """Tensor hooks of each output, then retained gradients. Returns the gradient(s) to use."""
    hooks: NodeHooks = node.hooks
    grads = list(g) if node.outputs > 1 else [g]
    for number, table in hooks.tensor.items():
        if grads[number] is not None:
            grads[number] = run_tensor_hooks(table, grads[number])
    for number, reference in hooks.retained.items():
        keeper = reference()
        if keeper is not None and grads[number] is not None:
            retain(keeper, grads[number])
    return grads if node.outputs > 1 else grads[0]


def prehooks(node: Any, g: Any) -> Any:
    """Prehooks of a node that is going to run: what `autograd.grad` returns for its output they do not change."""
    hooks: NodeHooks = node.hooks
    if not hooks.pre:
        return g
    grads = _run_group(hooks.pre, "prehook", tuple(g) if node.outputs > 1 else (g,), lambda hook, gs: hook(gs))
    return list(grads) if node.outputs > 1 else grads[0]


def after_node(node: Any, grads: Any, g: Any) -> Any:
    """Posthooks of a node: hook(grad_inputs, grad_outputs)."""
    if not node.hooks.post:
        return grads
    outputs = tuple(as_tensor(x) for x in (g if node.outputs > 1 else (g,)))
    given = grads if isinstance(grads, tuple) else (grads,)
    return _run_group(node.hooks.post, "posthook", given, lambda hook, gs: hook(gs, outputs))


def before_leaf(leaf: Any, g: Any) -> Any:
    """Prehooks of the leaf's AccumulateGrad; its tensor hooks have run."""
    return _run_group(leaf.hooks.pre, "prehook", (g,), lambda hook, gs: hook(gs))[0]


def after_leaf(leaf: Any, g: Any) -> None:
    """Post-accumulate hooks, posthooks, and last of all the reducer."""
    hooks: LeafHooks = leaf.hooks
    for hook in hooks.post_accumulate.snapshot():
        if hook(leaf) is not None:
            raise TypeError(f"the post-accumulate hook {_name(hook)} returned a value; such hooks return None")
    for hook in hooks.post.snapshot():
        hook((), (as_tensor(g),))
    if hooks.last is not None:
        hooks.last(leaf)


def retain(tensor: Any, g: Any) -> None:
    """Keep a gradient on a tensor that is no leaf: added to what is there, as torch does."""
    if isinstance(g, TensorBase):
        tensor._grad = g if tensor._grad is None else tensor._grad + g
    else:
        tensor._grad = from_raw(g.copy() if tensor._grad is None else tensor._grad.array + g)


def move_retained(tensor: Any, old: Any, new: Any) -> None:
    """`tensor` was the output of `old` (Node or Port) and is now that of `new`; its retained gradient goes along."""
    node, number = _place(old)
    reference = None if node.hooks is None else node.hooks.retained.get(number)
    if reference is not None and reference() is tensor and new is not None:
        del node.hooks.retained[number]
        node, number = _place(new)
        node.all_hooks().retained[number] = reference


def _place(fn: Any) -> tuple[Any, int]:
    return (fn.node, fn.number) if hasattr(fn, "node") else (fn, 0)


def _name(hook: Any) -> str:
    return getattr(hook, "__qualname__", repr(hook))
