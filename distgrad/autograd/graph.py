"""torch.autograd.graph's names: hooks on several tensors, on saved tensors, and the nodes themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from .._tensor.core import Tensor
from ..graph.base import LEAF, edge_of
from ..graph.engine import Run, current_run
from ..graph.guard import set_memory_guard
from ..graph.hooks import RemovableHandle
from ..graph.node import PORT, AccumulateGrad, GradientEdge, Node
from ..graph.packing import disable_saved_tensors_hooks, saved_tensors_hooks
from .inspect import explain, to_dot

__all__ = ["GradientEdge", "MultiHandle", "Node", "disable_saved_tensors_hooks", "explain", "get_gradient_edge",
           "increment_version", "register_multi_grad_hook", "save_on_cpu", "saved_tensors_hooks", "set_memory_guard",
           "to_dot"]


def get_gradient_edge(tensor: Tensor) -> GradientEdge:
    """(node, output number) where the gradient of `tensor` flows.

    Raises:
        RuntimeError: the tensor does not require grad.
    """
    if edge_of(tensor) is None:
        raise RuntimeError("get_gradient_edge: this tensor does not require grad")
    return GradientEdge(tensor.grad_fn or AccumulateGrad(tensor), tensor.output_nr)


def increment_version(tensor: Tensor | Sequence[Tensor]) -> None:
    """Count one in-place change that tensors could not see, such as a write through numpy."""
    for t in (tensor,) if isinstance(tensor, Tensor) else tensor:
        t.bump()


@contextlib.contextmanager
def save_on_cpu(pin_memory: bool = False) -> Iterator[None]:
    """Inside, what is saved for backward lies in host memory and travels back when it is needed.

    Args:
        pin_memory: keep it in pinned memory, and wait for neither way: what is computed meanwhile goes on.
    """
    def pack(t: Tensor) -> Any:
        return t.device, t.to("cpu", non_blocking=pin_memory)

    def unpack(packed: Any) -> Tensor:
        device, t = packed
        moved: Tensor = t.to(device, non_blocking=pin_memory)
        return moved

    with saved_tensors_hooks(pack, unpack):
        yield


class MultiHandle:
    """Takes the hooks of `register_multi_grad_hook` out again."""

    def __init__(self, handles: Sequence[RemovableHandle]) -> None:
        self.handles = tuple(handles)

    def remove(self) -> None:
        """Take them all out."""
        for handle in self.handles:
            handle.remove()

    def __enter__(self) -> MultiHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class _Arrivals:
    """The gradients that one backward has brought, and how many of them the hook still waits for."""

    def __init__(self, tensors: int, missing: int) -> None:
        self.grads: list[Any] = [None] * tensors
        self.missing = missing


def _expected(run: Run, sinks: Sequence[Any]) -> int:
    """How many of the sinks this backward reaches."""
    nodes = set(run.order)
    return sum(s in run.leaves if s.kind is LEAF else (s.node if s.kind == PORT else s) in nodes for s in sinks)


def register_multi_grad_hook(tensors: Sequence[Tensor], fn: Callable[[Any], None], *, mode: str = "all") -> MultiHandle:
    """Call `fn` once a backward, when the gradients of `tensors` have been computed.

    Args:
        mode: 'all' calls fn(list of gradients, None for tensors that this backward does not reach) after
            the last of them; 'any' calls fn(gradient) at the first.

    Raises:
        ValueError: another mode.
        RuntimeError: a tensor does not require grad.
    """
    if mode not in ("all", "any"):
        raise ValueError(f"register_multi_grad_hook: mode is 'all' or 'any', got {mode!r}")
    arrivals: WeakKeyDictionary[Run, _Arrivals] = WeakKeyDictionary()  # by run: nested backwards do not mix
    sinks = [edge_of(t) for t in tensors]

    def arrived(index: int, g: Any) -> None:
        run = current_run()
        assert run is not None
        seen = arrivals.get(run)
        if seen is None:
            seen = arrivals[run] = _Arrivals(len(sinks), 1 if mode == "any" else _expected(run, sinks))
        seen.grads[index] = g
        seen.missing -= 1
        if not seen.missing:
            fn(g if mode == "any" else list(seen.grads))

    return MultiHandle([t.register_hook(lambda g, index=i: arrived(index, g)) for i, t in enumerate(tensors)])
