"""Placement: one parameter's tie to its slot in flat memory, which `.grad` passes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._typing import Array
from ..backend import device_of, of
from ..errors import rank_prefix
from .factor import multiply_
from .group import Group
from .layout import Slot
from .state import State

__all__ = ["Placement"]


class Placement:
    """One parameter's tie to its slot.

    Attributes:
        home: the gradient as a tensor whose memory is the slot; it stays the same object.
        filled: the slot holds a gradient of the current round.
        closed: the slot is being reduced and must not be written; what comes is kept in `late`.
        read_only: why the parameter itself must not be written, or None.
    """

    __slots__ = ("_leaf", "_tensor", "closed", "filled", "group", "home", "late", "read_only", "slot")

    def __init__(self, group: Group, slot: Slot, tensor: Callable[[Array], Any], leaf: Callable[[], Any]) -> None:
        """
        Args:
            tensor: makes a tensor of a raw array.
            leaf: the parameter, or None when it is gone.
        """
        self.group = group
        self.slot = slot
        self._tensor = tensor
        self.home = tensor(slot.view(group.flat))
        self.filled = self.closed = False
        self.late: Array | None = None
        self.read_only: str | None = None
        self._leaf = leaf
        group.placements.append(self)

    @property
    def leaf(self) -> Any:
        """The parameter, or None when it is gone."""
        return self._leaf()

    def leaf_grad_is_home(self) -> bool:
        """Whether the parameter's `.grad` is there, in its slot."""
        leaf = self._leaf()
        return leaf is not None and leaf._grad is self.home

    def room(self, leaf: Any) -> Array | None:
        """The slot's memory, in which the first gradient of a round may be computed; None if it is not empty.

        What was computed there goes through `accumulate` all the same.
        """
        if self.closed or self.filled or not (leaf._grad is None or leaf._grad is self.home):
            return None
        self._make_ready(self.group)
        return self.home.array

    def accumulate(self, leaf: Any, g: Array) -> None:
        """Add one backward's gradient to the slot; the first one is copied in, unless it was computed there."""
        if self.closed:
            self.late = g.copy() if self.late is None else self.late + g
            return
        self._make_ready(self.group)
        target = self.home.array
        before = leaf._grad
        if before is None or (before is self.home and not self.filled):
            if g is not target:
                target[...] = g
        elif before is self.home:
            target += g
        else:  # a gradient from outside of the slot, such as one that belongs to a graph
            target[...] = before.array + g
        self.hold()
        self.home.bump()

    @classmethod
    def _make_ready(cls, group: Group) -> None:
        """A gradient of this rank's own is about to be written."""
        if group.state is not State.LOCAL:
            cls._begin(group)
        elif group.factor != 1:
            group.settle()

    @staticmethod
    def _begin(group: Group) -> None:
        if group.state is State.REDUCED:
            group.begin_round()
        else:
            group.begin_first()

    def hold(self) -> None:
        """The slot now is the parameter's `.grad`."""
        leaf = self._leaf()
        if leaf._grad is not self.home:
            self.group.live += 1
            leaf._grad = self.home
        self.filled = True

    def assign(self, leaf: Any, value: Any) -> None:
        """`p.grad = value`: None empties the slot, a tensor is copied into it."""
        group = self.group
        if value is None:
            if leaf._grad is self.home:
                group.live -= 1
                group.partials = None
                group.given_up.add(self.slot.index)
                if not group.live:
                    group.forget()
            leaf._grad = None
            self.filled = False
            return
        if group.peers is not None and group.state is State.REDUCED:
            raise RuntimeError(f"{rank_prefix()}the gradient of {self.slot.name!r} is sharded over the ranks of "
                               f"{group.label}: it cannot be assigned after the reduction, only before a backward")
        if group.state is State.EMPTY:
            self._begin(group)
        group.settle()
        if value is not self.home:
            array = self.home.array
            with of(array).using(device_of(array)):
                array[...] = value.array
            self.home.bump()
        self.hold()

    def read(self, leaf: Any) -> Any:
        """What `p.grad` is: the slot itself; of sharded gradients a read-only copy, from the memory of their owners.

        Raises:
            RuntimeError: sharded gradients that are gone, for a step or the next backward has used their memory.
        """
        grad, group = leaf._grad, self.group
        if grad is not self.home:
            return grad
        if group.peers is None or group.state is not State.REDUCED:
            group.settle()
            group.exposed = True
            return grad
        if group.used_up:
            raise RuntimeError(f"{rank_prefix()}the gradient of {self.slot.name!r} was used up by the sharded step of "
                               f"{group.label}: read p.grad between backward and step, or call model.full_grad(p)")
        slot = self.slot
        flat = group.peers.read([(slot.offset, slot.offset + slot.size)])
        multiply_([flat], group.factor)
        return self.copy_of(flat)

    def copy_of(self, flat: Array) -> Any:
        """A tensor over `flat`, the slot's elements in their order in memory, that is not written to."""
        slot = self.slot
        view = Slot(slot.index, slot.name, 0, slot.size, slot.shape, slot.order).view(flat)
        view.flags.writeable = False
        return self._tensor(view)

    def zero(self) -> None:
        """Set the gradient to zero in place."""
        self.group.given_up.add(self.slot.index)
        self.group.change([self], lambda parts: [part.fill(0) for part in parts])

    def refuse_rebinding(self, leaf: Any) -> None:
        """`p.data = ...` would leave the flat memory."""
        raise RuntimeError(f"parameter {self.slot.name!r} (shape {tuple(leaf.shape)}) belongs to {self.group.label}: "
                           "its memory cannot be rebound through .data; write into it instead (p.data.copy_(...))")
