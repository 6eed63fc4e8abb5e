"""The engine: walks the graph backwards, newest node first, and adds gradients up at the leaves.

First-order passes carry raw arrays; under `create_graph` the same rules run on Tensors and record.
It names no operation and no device. The only way up is a list of callables on a leaf (`hooks.last`)
and the callbacks around a backward, through which the reducer learns what it needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from .. import tracing
from ..backend import of, when_several
from ..errors import DistgradError
from . import anomaly, hooks
from .base import LEAF, TensorBase, wrap
from .fit import fit
from .modes import ANOMALY, ANOMALY_INF, ANOMALY_NAN, GRAD, state
from .node import NODE, PORT
from .places import beside
from .saved import release

__all__ = ["Run", "accumulate_grad", "before_next_backward", "current_run", "queue_callback", "run_backward"]


class _Thread(threading.local):
    run: Run | None = None
    before: list[Callable[[Run], None]] | None = None


_thread = _Thread()


class Run:
    """One backward on one thread.

    Attributes:
        leaves: for each leaf that this graph reaches, how many gradients are still to come.
        order: the nodes to visit, newest first.
        captured: sinks whose gradient is returned (autograd.grad) -> positions in the result.
        accumulate: where only some leaves may accumulate, those leaves; None for all of them.
        result: the captured gradients.
        callbacks: called when it has ended.
        reactions: called with the exception when it raises, before that goes on.
    """

    def __init__(self, retain: bool, create_graph: bool) -> None:
        self.retain = retain
        self.create_graph = create_graph
        self.pending: dict[Any, Any] = {}
        self.leaves: dict[Any, int] = {}
        self.order: list[Any] = []
        self.captured: dict[Any, list[int]] = {}
        self.useful: set[Any] = set()
        self.accumulate: set[Any] | None = None
        self.result: list[Any] = []
        self.callbacks: list[Callable[[], None]] = []
        self.reactions: list[Callable[[Exception], None]] = []
        self.outer: Run | None = _thread.run


def current_run() -> Run | None:
    """The innermost backward of this thread, or None outside of backward."""
    return _thread.run


def queue_callback(callback: Callable[[], None]) -> None:
    """Call `callback()` when the whole backward of this thread (the outermost one) has ended.

    Raises:
        RuntimeError: no backward is running.
    """
    run = _thread.run
    if run is None:
        raise RuntimeError("queue_callback: no backward is running on this thread")
    while run.outer is not None:
        run = run.outer
    run.callbacks.append(callback)


def before_next_backward(callback: Callable[[Run], None]) -> None:
    """Call `callback(run)` once, when this thread's next outermost backward begins."""
    if _thread.before is None:
        _thread.before = []
    _thread.before.append(callback)


def run_backward(roots: list[Any], grads: list[Any], *, retain_graph: bool, create_graph: bool,
                 captured: list[Any] | None = None, accumulate: list[Any] | None = None,
                 closed: bool = False) -> list[Any]:
    """Propagate `grads` from `roots` (sinks of gradients) to the leaves.

    Args:
        roots: Node, Port or leaf, one for each gradient.
        grads: raw arrays, or Tensors under `create_graph`.
        captured: sinks whose gradients are returned instead of accumulated (autograd.grad).
        accumulate: the only sinks that may get a `.grad` (backward(inputs=...)).
        closed: no captured sink lies behind another one, so the walk may stop at them.

    Returns:
        One gradient (or None) for each of `captured`.
    """
    run = Run(retain_graph, create_graph)
    flags = state.flags
    state.flags = flags | GRAD if create_graph else flags & ~GRAD
    _thread.run = run
    try:
        _plan(run, roots, captured, accumulate, closed)
        for root in roots:
            if root.kind is LEAF:
                run.leaves[root] = run.leaves.get(root, 0) + 1
        if run.outer is None and _thread.before:
            waiting, _thread.before = _thread.before, None
            for begin in waiting:
                begin(run)
        _walk(run, roots, grads)
    except Exception as error:
        for react in run.reactions:
            react(error)
        raise
    finally:
        _thread.run = run.outer
        state.flags = flags
    return run.result


def _whole_walk(run: Run, roots: list[Any], grads: list[Any]) -> None:
    for root, g in zip(roots, grads, strict=True):
        _deliver(run, root, g, False)
    if tracing.listeners:
        with tracing.span("backward", nodes=len(run.order)):
            _visit(run, run.order)
    else:
        _visit(run, run.order)
    for callback in run.callbacks:  # may grow while it is walked: a callback may queue another
        callback()


def _visit_all(run: Run, order: Sequence[Any]) -> None:
    """The loop: each node gives its rule the summed gradient and hands the results to its inputs."""
    pending = run.pending
    keep = run.retain
    guarded = state.flags & ANOMALY
    checked = state.flags & (ANOMALY_NAN | ANOMALY_INF)
    for node in order:
        g = pending.pop(node, None)
        if g is None:
            _skip(run, node)
            continue
        if node.hooks is not None:
            g = hooks.before_node(node, g)
        if run.captured and _capture_node(run, node, g):
            continue  # it was kept in the plan only for the gradient of its output
        if node.hooks is not None:
            g = hooks.prehooks(node, g)
        op = node.op
        grads = _guarded(op, node, g) if guarded else op.vjp(node, g)
        if checked:
            anomaly.check(node, grads)
        if node.values and not keep:
            release(node)
        if node.hooks is not None:
            grads = hooks.after_node(node, grads, g)
        if grads.__class__ is not tuple:
            grads = (grads,)
        for edge, gx in zip(node.edges, grads, strict=True):
            if edge is None:
                continue
            if gx is None or edge.kind is PORT:
                _deliver(run, edge, gx, False, node)
            elif edge.kind is NODE:
                if gx.shape != edge.shape or gx.dtype is not edge.dtype:
                    gx = fit(gx, edge.shape, edge.dtype, node)
                before = pending.get(edge)
                pending[edge] = gx if before is None else before + gx
            else:
                array = edge.array
                if gx.shape != array.shape or gx.dtype is not array.dtype:
                    gx = fit(gx, array.shape, array.dtype, node)
                _reach_leaf(run, edge, gx, gx is not g and op.fresh)


_walk, _visit = _whole_walk, _visit_all


def _follow() -> None:
    """Work has to be done beside what it is done with: from now on, each node's is."""
    global _walk, _visit

    def walk(run: Run, roots: list[Any], grads: list[Any]) -> None:
        with beside(grads):
            _whole_walk(run, roots, grads)

    def visit(run: Run, order: Sequence[Any]) -> None:
        for node in order:
            g = run.pending.get(node)
            with beside(g if g.__class__ is list else (g,)):
                _visit_all(run, (node,))

    _walk, _visit = walk, visit


when_several(_follow)


def _plan(run: Run, roots: list[Any], captured: list[Any] | None, accumulate: list[Any] | None,
          closed: bool) -> None:
    """Find the nodes to visit, newest first, and count the gradients that each leaf will get."""
    order, leaves = run.order, run.leaves
    seen: set[Any] = set()
    stack = []
    ends = {sink.node if sink.kind is PORT else sink for sink in captured} if closed and captured else ()
    for root in roots:
        node = root.node if root.kind is PORT else root
        if node.kind is NODE and node not in seen:
            seen.add(node)
            stack.append(node)
    while stack:
        node = stack.pop()
        order.append(node)
        if ends and node in ends:
            continue
        for edge in node.edges:
            if edge is None:
                continue
            kind = edge.kind
            if kind is LEAF:
                leaves[edge] = leaves.get(edge, 0) + 1
                continue
            if kind is PORT:
                edge = edge.node
            if edge not in seen:
                seen.add(edge)
                stack.append(edge)
    order.sort(key=attrgetter("seq"), reverse=True)
    if captured is not None:
        for position, sink in enumerate(captured):
            run.captured.setdefault(sink, []).append(position)
        run.result = [None] * len(captured)
    if captured is not None or accumulate is not None:
        run.accumulate = set(accumulate or ())
        _prune(run, set(captured or ()) | set(accumulate or ()))


def _prune(run: Run, targets: set[Any]) -> None:
    """Keep only nodes from which a target can be reached, and the targets themselves."""
    useful: set[Any] = set()
    run.leaves.clear()
    for node in reversed(run.order):  # oldest first: a node's inputs are older than itself
        hits = [e for e in node.edges if e is not None and
                (e in targets or (e.node if e.kind is PORT else e) in useful)]
        if hits:
            useful.add(node)
            for edge in node.edges:
                if edge is not None and edge.kind is LEAF:
                    run.leaves[edge] = run.leaves.get(edge, 0) + 1
    ends = {t.node if t.kind is PORT else t for t in targets}
    run.order = [node for node in run.order if node in useful or node in ends]
    run.useful = useful


def _capture_node(run: Run, node: Any, g: Any) -> bool:
    """Store the gradient of a captured node (or of its outputs); True when it need not run itself."""
    if node.outputs == 1:
        for position in run.captured.get(node, ()):
            run.result[position] = g
    else:
        for sink, positions in run.captured.items():
            if sink.kind is PORT and sink.node is node:
                for position in positions:
                    run.result[position] = g[sink.number]
    if node in run.useful:
        return False
    _skip(run, node)
    return True


def _guarded(op: Any, node: Any, g: Any) -> Any:
    """Run a rule in anomaly mode: its exception carries the forward line."""
    try:
        return op.vjp(node, g)
    except Exception as error:
        if node.made_at is not None and not isinstance(error, DistgradError):
            error.add_note(f"while {node.name()} ran backward; its forward was called at:\n{node.made_at}")
        raise


def _skip(run: Run, node: Any) -> None:
    """A node that no gradient reached: the leaves behind it wait for one gradient less."""
    for edge in node.edges:
        if edge is not None and edge.kind is LEAF and edge in run.leaves:
            _deliver(run, edge, None, False)


def _deliver(run: Run, sink: Any, g: Any, owned: bool, node: Any = None) -> None:
    """Add one gradient (None counts as zero) to what a sink waits for."""
    if g is not None and (g.shape != sink.shape or g.dtype != sink.dtype):
        g = fit(g, sink.shape, sink.dtype, node)
    if sink.kind is LEAF:
        _reach_leaf(run, sink, g, owned)
    elif g is None:
        return
    elif sink.kind is PORT:
        slots = run.pending.get(sink.node)
        if slots is None:
            slots = run.pending[sink.node] = [None] * sink.node.outputs
        before = slots[sink.number]
        slots[sink.number] = g if before is None else before + g
    else:
        before = run.pending.get(sink)
        run.pending[sink] = g if before is None else before + g


def _reach_leaf(run: Run, leaf: Any, g: Any, owned: bool) -> None:
    """One of a leaf's gradients (None counts as zero) is there; with the last one it accumulates their sum."""
    missing = run.leaves[leaf] = run.leaves[leaf] - 1
    before = run.pending.pop(leaf, None)
    if before is not None:
        g, owned = before if g is None else before + g, True
    if missing:
        if g is not None:
            run.pending[leaf] = g
    elif g is not None:
        _finish_leaf(run, leaf, g, owned)


def _finish_leaf(run: Run, leaf: Any, g: Any, owned: bool) -> None:
    """All gradients of a leaf are summed: hooks, then `.grad` or the result."""
    if run.accumulate is not None and leaf not in run.accumulate and leaf not in run.captured:
        return
    if leaf.hooks is not None:
        g = hooks.run_tensor_hooks(leaf.hooks.tensor, g)
        owned = False
    if run.accumulate is not None:
        for position in run.captured.get(leaf, ()):
            run.result[position] = g
        if leaf not in run.accumulate:
            return
    if leaf.hooks is not None:
        g = hooks.before_leaf(leaf, g)
    if g is None:
        return
    accumulate_grad(leaf, g, owned)
    if leaf.hooks is not None:
        hooks.after_leaf(leaf, g)


def accumulate_grad(leaf: Any, g: Any, owned: bool) -> None:
    """Add a gradient to `leaf.grad`, which keeps the leaf's memory order.

    The first one is taken over when the engine owns it, later ones are added in place. Under
    `create_graph` (g is a Tensor) the sum is a new tensor that belongs to the graph.
    """
    before = leaf._grad
    if isinstance(g, TensorBase):
        before = before if leaf.placement is None else leaf.placement.read(leaf)
        leaf._grad = g.clone() if before is None else before + g  # type: ignore[attr-defined]
    elif leaf.placement is not None:
        leaf.placement.accumulate(leaf, g)
    elif before is None:
        array = leaf.array
        if not (owned and g.base is None and g.__class__ is array.__class__ and g.strides == array.strides):
            copy = of(array).xp.empty_like(array)
            copy[...] = g
            g = copy
        leaf._grad = wrap(g)
    else:
        target = before.array
        target += g
        before.bump()
