"""Gradients of a node's other ranks, for whoever reads `p.grad` while each mean is written only once.

A reader waits for the owners, copies, and then looks whether an owner has gone on meanwhile: so nobody
ever waits for a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend import of
from ..comm.shared import NodeMemory
from ..errors import rank_prefix
from ..flat import Group, Range
from .counters import ARRIVED, FENCED, LEFT

__all__ = ["PeerGradients", "Rounds"]


class Rounds:
    """How far ranks have come with gradients that others may read: a number for each backward."""

    def __init__(self, memory: NodeMemory) -> None:
        self.memory = memory
        self.sharded: set[Group] = set()
        self.arrived: set[Group] = set()
        self.number = self.fences = 0

    def leave(self) -> None:
        """Gradients of the next backward are about to be written."""
        self.memory.raise_counter(LEFT, self.number + 1)

    def fence(self) -> None:
        """Return when all ranks have come here."""
        self.fences += 1
        self.memory.raise_counter(FENCED, self.fences)
        self.memory.wait(FENCED, self.fences, "the others, to change sharded gradients")

    def arrive(self, group: Group) -> None:
        """A group's gradients are final; when all are, the others hear of it."""
        self.arrived.add(group)
        if self.arrived == self.sharded:
            self.arrived = set()
            self.number += 1
            self.memory.raise_counter(ARRIVED, self.number)


class PeerGradients:
    """Lets ranks read each other's reduced gradients of one group as long as they are there."""

    def __init__(self, rounds: Rounds, everyone: Sequence[Any], group: Group) -> None:
        self.rounds = rounds
        self.everyone = everyone
        self.group = group
        rounds.sharded.add(group)

    def leave(self) -> None:
        """This rank is about to write to its gradients."""
        self.rounds.leave()

    def arrive(self) -> None:
        """This rank's part of the reduced gradients is final."""
        self.rounds.arrive(self.group)

    def fence(self) -> None:
        """Return when all ranks have come here."""
        self.rounds.fence()

    def read(self, ranges: Sequence[Range]) -> Any:
        """The owners' reduced gradients of these ranges, copied one after the other."""
        memory, number = self.rounds.memory, self.rounds.number
        memory.wait(ARRIVED, number, "the end of the reduction")
        whole = of(self.everyone[0]).xp.empty(sum(end - begin for begin, end in ranges), self.group.layout.dtype)
        at = 0
        for begin, end in ranges:
            for owner, theirs in enumerate(self.group.owned):
                for low, high in theirs:
                    first, last = max(begin, low), min(end, high)
                    if first < last:
                        whole[at + first - begin:at + last - begin] = self.everyone[owner][first:last]
            at += end - begin
        if memory.reached_by_any(LEFT, number + 1):
            raise RuntimeError(f"{rank_prefix()}a gradient of {self.group.label} was read too late: another rank has "
                               "begun its next backward; read p.grad before the ranks go on, or call "
                               "model.full_grad(p)")
        return whole
