"""Node: one recorded operation. Port: one output of a node that has several.

A node knows its operation's rule (`op`), where the gradients of its inputs flow (`edges`), what the
rule needs (`saved`) and the shape and dtype of its output. It is also the `ctx` of the operation.
"""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

from .._typing import DType
from . import saved as _saved
from .base import LEAF
from .hooks import NodeHooks, RemovableHandle, leaf_hooks
from .modes import GRAD, state

__all__ = ["NODE", "PORT", "AccumulateGrad", "GradientEdge", "Node", "Port"]

NODE = 0
PORT = 1

_next_seq = count().__next__


class Node:
    """One operation in the graph, created while it runs; later nodes have higher `seq`.

    Attributes:
        op: object with `name` and `vjp(node, g)`, where g is one cotangent, or a list of them
            (None where no gradient arrived) for an operation with several outputs. It returns one
            gradient, or a tuple with one for each edge.
        edges: for each input a Node, a Port, a leaf, or None.
        values: what was saved; see `saved`.
        own: ((index in values, output number), ...) of saved outputs.
        shape, dtype: of the output, or tuples of them when there are several.
    """

    __slots__ = ("__dict__", "__weakref__", "dtype", "edges", "expected", "op", "own", "seq", "shape", "values")

    kind = NODE
    # a tuple of them for an operation with several outputs
    dtype: DType
    shape: Any
    # What few nodes have lies in their __dict__: each slot that need not be filled makes every operation faster.
    outputs: int = 1
    packed: bool = False
    hooks: NodeHooks | None = None
    made_at: Any = None
    guard: Any = None

    def __init__(self, op: Any, edges: tuple[Any, ...], values: Any = ()) -> None:
        self.op = op
        self.edges = edges
        self.values = values
        self.seq = _next_seq()
        self.own = self.expected = ()

    # -- as the ctx of an operation: what a rule calls

    def save(self, *values: Any) -> None:
        """Keep values for the rule: raw inputs or outputs (recognised by identity), or constants."""
        self.values = values

    @property
    def saved(self) -> tuple[Any, ...]:
        """What `save` kept: raw arrays in a first-order pass, tensors under `create_graph`."""
        return _saved.unpack(self)

    def needs(self, index: int) -> bool:
        """Whether input `index` wants a gradient."""
        return self.edges[index] is not None

    # -- as torch's grad_fn: what a user reads

    def name(self) -> str:
        """The operation's name as torch writes it: 'MulBackward0'."""
        name, overload = self.op.name, getattr(self.op, "overload", 0)
        return f"{name[:1].upper()}{name[1:]}Backward{overload(self) if callable(overload) else overload}"

    def __getattr__(self, name: str) -> Any:
        """`_saved_self`, `_saved_result`, ...: what elementwise operations keep, under torch's names.

        Raises:
            RuntimeError: it was freed by a backward, or changed in place since.
        """
        if name.startswith("_saved_"):
            kept = getattr(self.op, "saved_names", lambda node: ())(self)
            if name[7:] in kept:
                flags, state.flags = state.flags, state.flags | GRAD
                try:
                    return self.saved[kept.index(name[7:])]
                finally:
                    state.flags = flags
        raise AttributeError(f"a node of type {type(self).__name__} has no attribute {name!r}")

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """For each input (node, output number); a leaf's node is an AccumulateGrad; else (None, 0)."""
        return tuple(_public_edge(edge) for edge in self.edges)

    @property
    def metadata(self) -> dict[str, Any]:
        """A dictionary for the user's own notes on this node."""
        return self.__dict__.setdefault("_metadata", {})

    def register_hook(self, hook: Any) -> RemovableHandle:
        """Call hook(grad_inputs, grad_outputs) after the node ran; it may return other grad_inputs."""
        return self.all_hooks().post.add(hook)

    def register_prehook(self, hook: Any) -> RemovableHandle:
        """Call hook(grad_outputs) before the node runs; it may return other grad_outputs."""
        return self.all_hooks().pre.add(hook)

    def all_hooks(self) -> NodeHooks:
        """This node's hooks, made when first asked for."""
        if self.hooks is None:
            self.hooks = NodeHooks()
        return self.hooks

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


class Port:
    """Output `number` of a node with several outputs, as a sink of gradients."""

    __slots__ = ("dtype", "node", "number", "shape")

    kind = PORT

    def __init__(self, node: Node, number: int) -> None:
        self.node = node
        self.number = number
        self.shape = node.shape[number]
        self.dtype = node.dtype[number]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Port) and other.node is self.node and other.number == self.number

    def __hash__(self) -> int:
        return hash((id(self.node), self.number))


class AccumulateGrad:
    """The end of the graph at a leaf, made when a user looks at it; `variable` is the leaf."""

    __slots__ = ("variable",)

    def __init__(self, variable: Any) -> None:
        self.variable = variable

    @property
    def next_functions(self) -> tuple[()]:
        """Empty: nothing lies beyond a leaf."""
        return ()

    def name(self) -> str:
        """'AccumulateGrad', as torch names it."""
        return "AccumulateGrad"

    def register_hook(self, hook: Any) -> RemovableHandle:
        """Call hook((), (grad,)) after the gradient was accumulated."""
        return leaf_hooks(self.variable).post.add(hook)

    def register_prehook(self, hook: Any) -> RemovableHandle:
        """Call hook((grad,)) before the gradient is accumulated; it may return another one."""
        return leaf_hooks(self.variable).pre.add(hook)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AccumulateGrad) and other.variable is self.variable

    def __hash__(self) -> int:
        return hash(("AccumulateGrad", id(self.variable)))

    def __repr__(self) -> str:
        return f"<AccumulateGrad object at {id(self.variable):#x}>"


class GradientEdge(NamedTuple):
    """A place in the graph through which a gradient flows: output `output_nr` of `node`."""

    node: Any
    output_nr: int

    @property
    def sink(self) -> Any:
        """The same for the engine: Node, Port or leaf."""
        if isinstance(self.node, AccumulateGrad):
            return self.node.variable
        return self.node if self.node.outputs == 1 else Port(self.node, self.output_nr)


def _public_edge(edge: Any) -> tuple[Any, int]:
    if edge is None:
        return None, 0
    if edge.kind is LEAF:
        return AccumulateGrad(edge), 0
    if edge.kind is PORT:
        return edge.node, edge.number
    return edge, 0
