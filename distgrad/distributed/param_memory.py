"""Where the parameters of a sharded optimizer lie: one copy on the node, or one a rank.

Tensors see it read-only; the owner of a share writes through the array that this module holds.
"""

from __future__ import annotations

from typing import Any

from ..backend import of
from ..comm import Communicator, SelfCommunicator, nodes
from ..comm.shared import NodeMemory, node_memory
from ..errors import rank_prefix
from ..flat import Group

__all__ = ["ParamMemory"]

_WRITTEN = 0  # column of the counters: how often a rank has published its share


class ParamMemory:
    """Flat parameters of one group, to which its parameters' arrays are rebound. Collective.

    Attributes:
        flat: the parameters, writable; each rank writes its own share.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.comm = _communicator(group)
        self.rank, self.size = self.comm.rank, self.comm.size
        layout = group.layout
        self._shared: NodeMemory | None = None
        found = node_memory(self.comm, layout.size * layout.dtype.itemsize) if len(nodes(self.comm)) == 1 else ""
        if isinstance(found, NodeMemory):
            self._shared = found
            self.flat = found.blocks[0].view(layout.dtype)
        else:
            self.flat = of(group.flat).xp.zeros(layout.size, layout.dtype)
        self._published = 0
        if self.rank == 0 or self._shared is None:
            for placement in group.placements:
                placement.slot.view(self.flat)[...] = placement.leaf.array
        self._barrier()
        self._rebind(self.flat, read_only=True)

    def _rebind(self, flat: Any, *, read_only: bool) -> None:
        reason = (f"{rank_prefix()}the parameters of {self.group.label} are shared by the ranks and written by a "
                  "ZeroRedundancyOptimizer; write to them inside `with optimizer.writable():`") if read_only else None
        for placement in self.group.placements:
            view = placement.slot.view(flat)
            view.flags.writeable = not read_only
            placement.leaf.array = view
            placement.read_only = reason

    def _barrier(self) -> None:
        if self._shared is None:
            self.comm.barrier()
            return
        self._published += 1
        self._shared.raise_counter(_WRITTEN, self._published)
        self._shared.wait(_WRITTEN, self._published, "the update of the parameters")

    def publish(self) -> None:
        """Every rank has written its share: all see all of them. Collective."""
        if self._shared is None:
            self.flat[...] = self.gather(self.owned(self.flat))
        else:
            self._barrier()

    def gather(self, mine: Any) -> Any:
        """All ranks' arrays over what they own, put where it belongs in the whole. Collective."""
        gathered = of(mine).xp.empty(self.group.layout.size, mine.dtype)
        sizes = [sum(end - begin for begin, end in ranges) for ranges in self.group.owned]
        self.comm.allgatherv(mine, gathered, sizes)
        return self.group.in_place_of_owners(gathered)

    def owned(self, flat: Any) -> Any:
        """What this rank owns of a flat array, one range after the other, in new memory."""
        parts = [flat[begin:end] for begin, end in self.group.owned[self.rank]]
        return of(flat).xp.concatenate(parts) if parts else flat[:0].copy()

    def open(self) -> None:
        """Give every rank a private, writable copy of the parameters."""
        self._draft = self.flat.copy()
        self._rebind(self._draft, read_only=False)

    def take_and_close(self) -> None:
        """Take each owner's share of its copy, and show the result read-only. Collective."""
        for begin, end in self.group.owned[self.rank]:
            self.flat[begin:end] = self._draft[begin:end]
        del self._draft
        self.publish()
        self._rebind(self.flat, read_only=True)


def _communicator(group: Group) -> Communicator:
    """A communicator of the group's ranks for this memory alone."""
    if group.comm is None:
        return SelfCommunicator()
    return group.comm.dup()
