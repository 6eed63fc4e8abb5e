"""Run: parameters that take a step together, in one call of their rule.

It sees every parameter and its state as one dimension in the order of the parameter's memory, and prepares
the rule once; as long as parameters and state stay where they are, a step only looks up the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

from .._typing import Array
from .rules import Rule

__all__ = ["Run"]


class Run:
    """Parameters of one dtype with the same options and the same count of steps.

    Args:
        params: the parameters.
        arrays: for each name of the rule's arrays, one for each parameter, in its shape.
    """

    def __init__(self, rule: Rule, params: Sequence[Any], arrays: Mapping[str, Sequence[Array]]) -> None:
        self._places = _places(params, arrays)
        self._orders = [_order(p.array) for p in params]
        self._back: list[tuple[Array, Array]] = []  # memory that cannot be seen in one dimension, and its copy
        self._sources: list[Array] = []
        self._elsewhere = 0  # steps in a row whose gradients lay elsewhere than those before
        self._lines: list[Array] = []
        self._update = rule(self._written([p.array for p in params]),
                            {name: self._written(each) for name, each in arrays.items()})

    def fits(self, params: Sequence[Any], arrays: Mapping[str, Sequence[Array]]) -> bool:
        """Whether it was made for these parameters and arrays, where they lie now."""
        places = _places(params, arrays)
        return len(places) == len(self._places) and all(map(is_, places, self._places))

    def step(self, gradients: Sequence[Array], options: Mapping[str, Any], step: int, factor: float | Array) -> None:
        """Update all parameters in place; `gradients` are in their shapes."""
        if len(gradients) != len(self._sources) or not all(map(is_, gradients, self._sources)):
            self._sources = list(gradients)
            self._lines = [_line(g, order) for g, order in zip(gradients, self._orders, strict=True)]
            self._elsewhere += 1
        for there, line in self._back:
            line[...] = _line(there, _order(there))
        self._update(self._lines, options, step, factor)
        for there, line in self._back:
            order = _order(there) or tuple(range(there.ndim))
            there.transpose(order)[...] = line.view(there.dtype).reshape([there.shape[d] for d in order])
        if self._elsewhere > 1:  # they come anew each time: who forgets them gets their memory back
            self._sources.clear()
            self._lines.clear()

    def _written(self, arrays: Sequence[Array]) -> list[Array]:
        lines = []
        for array, order in zip(arrays, self._orders, strict=True):
            line = _line(array, order)
            if not (array if order is None else array.transpose(order)).flags.c_contiguous:
                self._back.append((array, line))
            lines.append(line)
        return lines


def _places(params: Sequence[Any], arrays: Mapping[str, Sequence[Array]]) -> list[Array]:
    places = [p.array for p in params]
    for each in arrays.values():
        places += each
    return places


def _order(array: Array) -> tuple[int, ...] | None:
    """The dimensions from the slowest to the fastest in memory; None where that is their own order."""
    if array.flags.c_contiguous:
        return None
    return tuple(sorted(range(array.ndim), key=lambda d: (-array.strides[d], d)))


def _line(array: Array, order: tuple[int, ...] | None) -> Array:
    """As one dimension: a view where the memory allows it. Complex numbers are two real ones."""
    line = (array if order is None else array.transpose(order)).reshape(-1)
    return line if line.dtype.kind != "c" else line.view(line.real.dtype)
