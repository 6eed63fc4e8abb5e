"""Looking at a graph: what it holds in memory (`explain`), and a picture of it (`to_dot`).

Both only read; nothing is unpacked, computed or freed.
"""

from __future__ import annotations

import linecache
import os.path
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._tensor.core import Tensor
from ..graph.base import LEAF, TensorBase, edge_of
from ..graph.node import PORT
from ..graph.saved import RELEASED

__all__ = ["Held", "HeldAt", "explain", "to_dot"]

Tensors = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class HeldAt:
    """What the nodes of one line of the user's (or of one operation) keep for backward.

    Attributes:
        where: 'file:line in function' where anomaly mode was on in forward, else the operation's name.
        source: the text of that line, or ''.
        operations: names of the operations, with how often each occurs.
        arrays, bytes: pieces of memory first saved here, and their size.
    """

    where: str
    source: str
    operations: Mapping[str, int]
    arrays: int
    bytes: int


@dataclass(frozen=True)
class Held:
    """What a backward will hold until it has passed.

    Attributes:
        rows: by place, the largest first.
        total: bytes that the graph keeps alive; memory saved several times counts once.
        leaves: bytes of the leaves (parameters, inputs) among what is saved; they live anyway, and are not in
            `total`.
        nodes: number of operations in the graph.
    """

    rows: tuple[HeldAt, ...]
    total: int
    leaves: int
    nodes: int

    def __str__(self) -> str:
        lines = [f"{_size(self.total)} saved for backward by {self.nodes} operations, "
                 f"and {_size(self.leaves)} of leaves"]
        for row in self.rows:
            names = ", ".join(name if n == 1 else f"{name} x{n}" for name, n in row.operations.items())
            note = f"  {row.source}  [{names}]" if row.source else "" if row.where == names else f"  [{names}]"
            lines.append(f"{_size(row.bytes):>12}  {row.where}{note}")
        return "\n".join(lines)


def explain(tensors: Tensors) -> Held:
    """The memory that a backward from here will hold, by the line that saved it.

    Lines are known for operations that ran inside `detect_anomaly`; others are grouped by name. Memory
    belongs to the oldest operation that saved it. A saved view counts as the whole memory it keeps alive.

    Args:
        tensors: a loss, or several.

    Raises:
        RuntimeError: a tensor does not require grad.
    """
    nodes = _nodes(tensors)
    own = {id(_owner(leaf.array)) for leaf in _leaves(nodes)}
    seen: set[int] = set()
    leaves = 0
    places: dict[tuple[str, str], list[Any]] = {}
    for node in nodes:
        row = places.setdefault(_place(node), [Counter(), 0, 0])
        row[0][node.name()] += 1
        for array in _held(node):
            owner = _owner(array)
            # Leaves may lie in one buffer that is no leaf's alone: of those only what is saved counts.
            key = id(array) if id(owner) in own else id(owner)
            if key in seen:
                continue
            seen.add(key)
            if id(owner) in own:
                leaves += array.nbytes
            else:
                row[1] += 1
                row[2] += owner.nbytes
    rows = [HeldAt(where, source, dict(names), arrays, size)
            for (where, source), (names, arrays, size) in places.items() if arrays]
    rows.sort(key=lambda row: -row.bytes)
    return Held(tuple(rows), sum(row.bytes for row in rows), leaves, len(nodes))


def to_dot(tensors: Tensors, names: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] | None = None) -> str:
    """The graph as Graphviz text: `dot -Tsvg` draws it. Equal graphs give equal text.

    Args:
        tensors: a loss, or several.
        names: names for leaves, as a dictionary or as `model.named_parameters()` gives them.

    Raises:
        RuntimeError: a tensor does not require grad.
    """
    nodes = _nodes(tensors)
    leaves = _leaves(nodes)
    for t in _listed(tensors):
        if t.fn is None and not any(t is leaf for leaf in leaves):
            leaves.append(t)
    known = {id(t): name for name, t in dict(names or {}).items()}
    ids = {id(node): f"n{i}" for i, node in enumerate(nodes)} | {id(leaf): f"l{i}" for i, leaf in enumerate(leaves)}
    lines = ["digraph {", "  rankdir=TB;", "  node [shape=box, style=filled, fillcolor=white, fontname=monospace];"]
    for leaf in leaves:
        label = f"{known.get(id(leaf), 'leaf')}\n{_shape(leaf.shape)} {leaf.dtype}"
        lines.append(f"  {ids[id(leaf)]} [label={_quoted(label)}, fillcolor=lightblue];")
    for node in nodes:
        shapes = node.shape if node.outputs > 1 else (node.shape,)
        label = f"{node.name()}\n{', '.join(map(_shape, shapes))}"
        lines.append(f"  {ids[id(node)]} [label={_quoted(label)}];")
    for node in nodes:
        lines += [_arrow(edge, ids, ids[id(node)]) for edge in node.edges if edge is not None]
    for i, t in enumerate(_listed(tensors)):
        label = f"output {i}\n{_shape(t.shape)} {t.dtype}"
        lines += [f"  out{i} [label={_quoted(label)}, shape=ellipse];", _arrow(edge_of(t), ids, f"out{i}")]
    return "\n".join([*lines, "}", ""])


def _listed(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, TensorBase) else list(tensors)


def _nodes(tensors: Tensors) -> list[Any]:
    """Every node that a backward would visit, oldest first."""
    seen: dict[int, Any] = {}
    stack = []
    for t in _listed(tensors):
        if edge_of(t) is None:
            raise RuntimeError(f"a tensor of shape {tuple(t.shape)} does not require grad: it has no graph")
        stack.append(edge_of(t))
    while stack:
        edge = stack.pop()
        node = edge.node if edge.kind == PORT else edge
        if node.kind != LEAF and id(node) not in seen:
            seen[id(node)] = node
            stack.extend(e for e in node.edges if e is not None)
    return sorted(seen.values(), key=lambda node: node.seq)


def _leaves(nodes: list[Any]) -> list[Any]:
    """The leaves that these nodes lead to, in the order in which they are first used."""
    found = {id(edge): edge for node in nodes for edge in node.edges if edge is not None and edge.kind == LEAF}
    return list(found.values())


def _held(node: Any) -> Iterator[Any]:
    """The raw arrays that a node keeps: saved values, and what its rule set as attributes."""
    if node.values is not RELEASED:
        yield from _arrays(node.values)
    yield from _arrays(list(vars(node).values()))


def _arrays(value: Any) -> Iterator[Any]:
    """Arrays in a saved value. What a pack hook made may be anything; it may tell by `held_arrays()`."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _arrays(item)
    elif isinstance(value, TensorBase):
        yield value.array
    elif hasattr(value, "held_arrays"):
        yield from value.held_arrays()
    elif hasattr(value, "unpack"):
        yield from _arrays(value.value)
    elif hasattr(value, "nbytes") and getattr(value, "ndim", 0):
        yield value


def _owner(array: Any) -> Any:
    """The array object that owns the memory of a view."""
    while isinstance(getattr(array, "base", None), array.__class__):
        array = array.base
    return array


def _place(node: Any) -> tuple[str, str]:
    """(where, source line) of a node."""
    if node.made_at is None or not node.made_at.frames:
        return node.name(), ""
    file, line, function = node.made_at.frames[0]
    return f"{os.path.basename(file)}:{line} in {function}", linecache.getline(file, line).strip()


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _shape(shape: Any) -> str:
    return f"({', '.join(map(str, shape))})"


def _arrow(edge: Any, ids: dict[int, str], target: str) -> str:
    if edge.kind == PORT:
        return f'  {ids[id(edge.node)]} -> {target} [label="{edge.number}"];'
    return f"  {ids[id(edge)]} -> {target};"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "")
    return f'"{escaped}"'
