"""Saved values: what a rule reads in backward, with the check that nobody changed it since.

A saved input is the Tensor itself; a saved output is its raw array (a Tensor would make a cycle),
noted in `node.own`; anything else is a constant. `node.expected` holds for each value what its version has to
be: a number for an input, (the version's list, a number) for an output, None for a constant. See [Note: versions]
in base.
"""

from __future__ import annotations

from typing import Any

from .base import TensorBase, wrap
from .modes import GRAD, state
from .packing import unpacked
from .version import changed_error, inference_error

__all__ = ["RELEASED", "note_versions", "release", "released_error", "resolve", "unpack"]


class _Released:
    """Stands where saved values were before backward freed them."""

    def __repr__(self) -> str:
        return "<released>"


RELEASED = _Released()


def resolve(node: Any, inputs: tuple[Any, ...], arrays: list[Any], outputs: tuple[Any, ...]) -> None:
    """Turn the raw arrays that a forward saved into Tensors (inputs) and marks (outputs)."""
    values = list(node.values)
    expected: list[Any] = [None] * len(values)
    for position, value in enumerate(values):
        if value is None:
            continue
        for number, out in enumerate(outputs):
            if out.array is value:
                version = out.shared_version()
                node.own += ((position, number),)
                expected[position] = (version, version[0])
                break
        else:
            for tensor, array in zip(inputs, arrays):
                if array is value and isinstance(tensor, TensorBase):
                    values[position] = tensor
                    expected[position] = _version(node, tensor)
                    break
    node.values = values
    node.expected = expected


def _version(node: Any, tensor: TensorBase) -> int:
    version = tensor.version
    if version is None:
        return 0
    if version[0] < 0:
        raise inference_error(node, tensor)
    return version[0]


def note_versions(node: Any, outputs: tuple[Any, ...] = ()) -> None:
    """Note the version of every saved tensor.

    Raises:
        RuntimeError: one of them is an inference tensor.
    """
    expected: list[Any] = [_version(node, value) if isinstance(value, TensorBase) else None for value in node.values]
    for position, number in node.own:
        version = outputs[number].shared_version()
        expected[position] = (version, version[0])
    node.expected = expected


def unpack(node: Any) -> Any:
    """The saved values for the rule that runs now: raw arrays, or tensors in grad mode.

    Raises:
        RuntimeError: they were freed by an earlier backward, or changed in place since.
    """
    values = node.values
    if values is RELEASED:
        raise released_error(node)
    if node.packed:
        values = unpacked(node, values)
        return values if state.flags & GRAD else [v.array if isinstance(v, TensorBase) else v for v in values]
    out: list[Any] = []
    for value, number in zip(values, node.expected):
        if number.__class__ is int:
            version = value.version
            if number != (0 if version is None else version[0]):
                raise changed_error(node, len(out), version[0], number)
            out.append(value.array)
        else:
            if number is not None and number[0][0] != number[1]:
                raise changed_error(node, len(out), number[0][0], number[1])
            out.append(value)
    if not state.flags & GRAD:
        return out
    out = list(values)
    for position, number in node.own:
        out[position] = _attached(node, values[position], number)
    return out


def _attached(node: Any, array: Any, number: int) -> Any:
    """A saved output as a tensor that hangs on the very node that made it (its second derivative)."""
    from .node import Port

    return wrap(array, node if node.outputs == 1 else Port(node, number))


def release(node: Any) -> None:
    """Free saved values. A node that saved nothing may run again."""
    if node.values:
        node.values = RELEASED
        node.expected = ()
        node.guard = None


def released_error(node: Any) -> RuntimeError:
    """The error for a second backward through freed values."""
    return RuntimeError(f"the values that {node.name()} had saved were freed by an earlier backward; "
                        "pass retain_graph=True to that backward to run another one through this graph")
