"""`backward` and `grad`: the checks at the door, then the engine.

They take tensors and give tensors; raw arrays exist only behind this door.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ..backend import device_of, of
from .base import TensorBase, edge_of, from_raw
from .engine import run_backward
from .hooks import retain
from .node import GradientEdge, Node, Port

__all__ = ["backward", "grad"]

Tensors = TensorBase | Sequence[TensorBase]


def backward(tensors: Tensors, grad_tensors: Any = None, retain_graph: bool | None = None,
             create_graph: bool = False, inputs: Tensors | None = None) -> None:
    """Accumulate into the leaves' `.grad` the gradient of `tensors`, weighted by `grad_tensors`.

    Args:
        tensors: one tensor or several; those without `grad_tensors` must have one element.
        grad_tensors: for each of them its cotangent, of the same shape, or None for 1.
        retain_graph: keep saved values for another backward; default `create_graph`.
        create_graph: record this backward, so that gradients can be differentiated again.
        inputs: accumulate only into these tensors.

    Raises:
        RuntimeError: a tensor does not require grad, is no scalar and came without a cotangent, a
            cotangent has the wrong shape or dtype, or `inputs` is empty.
    """
    roots, grads = _roots(tensors, grad_tensors, create_graph)
    if create_graph:
        warnings.warn("backward(create_graph=True) makes .grad hold the graph and the graph hold .grad; use "
                      "autograd.grad, or set .grad to None afterwards, to free the memory", UserWarning, stacklevel=3)
    targets = None if inputs is None else _listed(inputs)
    if targets is not None and not targets:
        raise RuntimeError("backward: inputs is empty; leave it out to accumulate into every leaf")
    retain_graph = create_graph if retain_graph is None else retain_graph
    if targets is None:
        run_backward(roots, grads, retain_graph=retain_graph, create_graph=create_graph)
        return
    sinks = [_sink(t, i) for i, t in enumerate(targets)]
    inner = [t for t in targets if t.fn is not None]
    found = run_backward(roots, grads, retain_graph=retain_graph, create_graph=create_graph,
                         captured=[t.fn for t in inner], accumulate=[s for s in sinks if isinstance(s, TensorBase)])
    for tensor, g in zip(inner, found, strict=True):
        if g is not None:
            retain(tensor, g)


def grad(outputs: Tensors, inputs: Tensors, grad_outputs: Any = None, retain_graph: bool | None = None,
         create_graph: bool = False, allow_unused: bool | None = None, is_grads_batched: bool = False,
         materialize_grads: bool = False) -> tuple[Any, ...]:
    """The gradient of `outputs` with respect to `inputs`, returned instead of accumulated.

    Args:
        outputs, grad_outputs: as in `backward`.
        inputs: tensors of the graph, leaves or not, or a `GradientEdge` in place of a tensor.
        retain_graph, create_graph: as in `backward`.
        allow_unused: give None for an input that the outputs do not depend on, instead of raising.
        is_grads_batched: `grad_outputs` carry a leading dimension; one gradient for each entry.
        materialize_grads: zeros instead of None.

    Raises:
        RuntimeError: as `backward`, or an input is not part of the graph.
    """
    if is_grads_batched:
        return _batched(outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused, materialize_grads)
    if allow_unused is False and materialize_grads:
        raise ValueError("grad: materialize_grads gives zeros for unused inputs, so allow_unused cannot be False")
    roots, grads = _roots(outputs, grad_outputs, create_graph)
    targets = _listed(inputs, (TensorBase, GradientEdge))
    if not targets:
        raise RuntimeError("grad: inputs is empty")
    sinks = [_sink(t, i) for i, t in enumerate(targets)]
    found = run_backward(roots, grads, retain_graph=create_graph if retain_graph is None else retain_graph,
                         create_graph=create_graph, captured=sinks)
    result = []
    for position, (tensor, g) in enumerate(zip(targets, found, strict=True)):
        if g is None and materialize_grads and isinstance(tensor, TensorBase):
            g = of(tensor.array).xp.zeros_like(tensor.array)
        if g is None and not allow_unused:
            raise RuntimeError(f"grad: input {position} (shape {sinks[position].shape}) was not used to compute the "
                               "outputs; pass allow_unused=True to get None for it")
        result.append(g if g is None or isinstance(g, TensorBase) else from_raw(g))
    return tuple(result)


def _batched(outputs: Any, inputs: Any, grad_outputs: Any, retain_graph: bool | None, create_graph: bool,
             allow_unused: bool | None, materialize_grads: bool) -> tuple[Any, ...]:
    """One pass for each entry of the leading dimension, stacked."""
    batches = _listed(grad_outputs)
    keep = create_graph if retain_graph is None else retain_graph
    count = batches[0].shape[0]
    rows = [grad(outputs, inputs, [b[i] for b in batches], keep or i < count - 1, create_graph, allow_unused,
                 materialize_grads=materialize_grads) for i in range(count)]
    columns = list(zip(*rows, strict=True))
    return tuple(None if column[0] is None else column[0].stack_with(column[1:]) for column in columns)


def _listed(tensors: Any, kinds: tuple[type, ...] = (TensorBase,)) -> list[Any]:
    if isinstance(tensors, kinds):
        return [tensors]
    found = list(tensors)
    for t in found:
        if t is not None and not isinstance(t, kinds):
            raise TypeError(f"expected a tensor or a sequence of tensors, found {type(t).__name__}")
    return found


def _sink(tensor: Any, position: int) -> Any:
    if isinstance(tensor, GradientEdge):
        return tensor.sink
    sink = edge_of(tensor)
    if sink is None:
        raise RuntimeError(f"input {position} (shape {tuple(tensor.shape)}) does not require grad")
    return sink


def _roots(tensors: Any, grad_tensors: Any, create_graph: bool) -> tuple[list[Any], list[Any]]:
    """Sinks and their first gradients."""
    outputs = _listed(tensors)
    given = [None] * len(outputs) if grad_tensors is None else _listed(grad_tensors)
    if len(given) != len(outputs):
        raise RuntimeError(f"{len(outputs)} tensors came with {len(given)} gradients; give one (or None) for each")
    roots = []
    grads = []
    for position, (t, g) in enumerate(zip(outputs, given, strict=True)):
        root: Node | Port | Any = edge_of(t)
        if root is None:
            raise RuntimeError(f"tensor {position} (shape {tuple(t.shape)}) does not require grad and has no grad_fn: "
                               "nothing before it was recorded")
        grads.append(_first_gradient(t, g, create_graph))
        roots.append(root)
    return roots, grads


def _first_gradient(t: Any, g: Any, create_graph: bool) -> Any:
    if g is None:
        if t.array.size != 1:
            raise RuntimeError(f"backward of a tensor of shape {tuple(t.shape)} needs a gradient of that shape: only "
                               "for a single element it is 1 by default")
        if t.dtype.kind == "c":
            raise RuntimeError(f"backward of a complex scalar ({t.dtype}) needs an explicit gradient: take .abs() or "
                               ".real for a loss")
        ones = of(t.array).xp.ones_like(t.array)
        return from_raw(ones) if create_graph else ones
    if g.shape != t.shape:
        raise RuntimeError(f"the gradient has shape {tuple(g.shape)}, its tensor has shape {tuple(t.shape)}")
    if (g.dtype.kind == "c") != (t.dtype.kind == "c"):
        raise RuntimeError(f"the gradient has dtype {g.dtype}, its tensor has dtype {t.dtype}: one is complex")
    if device_of(g.array) != device_of(t.array):
        raise RuntimeError(f"the gradient is on {device_of(g.array)}, its tensor on {device_of(t.array)}")
    return g if create_graph else g.array
