"""Where the parameters of a sharded optimizer lie: one copy on each node, or one a rank.

Tensors see it read-only; the owner of a share writes through the array that this module holds. On one node
that is all; between nodes, lanes carry what each has written to the others. On devices each rank has a copy, and
the owners' parts go to the others from device to device where the gradients do, else by way of the host.
"""

from __future__ import annotations

from typing import Any

from .._typing import Array
from ..backend import device_of, of
from ..comm import Communicator, SelfCommunicator, nodes
from ..comm.lanes import Lanes, open_lanes
from ..comm.shared import NodeMemory, node_memory
from ..comm.staging import on_host
from ..errors import rank_prefix
from ..flat import Group, Layout
from ..graph.places import beside

__all__ = ["ParamMemory"]

_WRITTEN = 0  # column of the counters: how often a rank has come to the end of an update


class ParamMemory:
    """Flat parameters of one group, to which its parameters' arrays are rebound. Collective.

    Attributes:
        flat: the parameters, writable; each rank writes what it owns.
    """

    flat: Array

    def __init__(self, group: Group) -> None:
        self.group = group
        self.comm = _communicator(group)
        self.rank, self.size = self.comm.rank, self.comm.size
        layout = group.layout
        self._lanes: Lanes | None = None
        self._shared: NodeMemory | None = None
        first = False
        if on_host(group.flat):
            first = self._share(layout)
        if self._shared is not None:
            self.flat = self._shared.blocks[0].view(layout.dtype)
        else:
            with of(group.flat).using(device_of(group.flat)):
                self.flat = of(group.flat).xp.zeros(layout.size, layout.dtype)
        self._published = 0
        if first or self._shared is None:
            with beside((self.flat,)):
                for placement in group.placements:
                    placement.slot.view(self.flat)[...] = placement.leaf.array
        self._barrier()
        self._rebind(self.flat, read_only=True)

    def _share(self, layout: Layout) -> bool:
        """Find memory that ranks share, if there can be any; whether this rank is the first of its node. Collective."""
        places = nodes(self.comm)
        here = next(ranks for ranks in places if self.rank in ranks)
        first = self.rank == here[0]
        nbytes = layout.size * layout.dtype.itemsize if first else 0  # one copy, brought in by the node's first rank
        found = node_memory(self.comm, nbytes) if len(places) == 1 else open_lanes(self.comm, nbytes)
        if isinstance(found, Lanes):
            self._lanes, self._shared = found, found.memory
        elif isinstance(found, NodeMemory):
            self._shared = found
        return first

    def _rebind(self, flat: Any, *, read_only: bool) -> None:
        reason = (f"{rank_prefix()}the parameters of {self.group.label} are shared by the ranks and written by a "
                  "ZeroRedundancyOptimizer; write to them inside `with optimizer.writable():`") if read_only else None
        for placement in self.group.placements:
            view = placement.slot.view(flat)
            if on_host(view):
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

    def meet(self) -> None:
        """No rank reads the parameters any more as they were: they may be written. Collective."""
        if self._shared is not None:
            self._barrier()

    def publish(self) -> None:
        """Every rank has written what it owns: all see all of it. Collective."""
        if self._on_devices():
            self._spread(self.flat)
            return
        if self._shared is None:
            with beside((self.flat,)):
                self.flat[...] = self.gather(self._taken([self.rank]))
            return
        self._barrier()
        if self._lanes is not None:
            self._carry(self._lanes)
            self._barrier()

    def _carry(self, lanes: Lanes) -> None:
        """Give the other nodes what this lane's ranks of this node have written, and write here what theirs have."""
        if lanes.wire is None:
            return
        members = lanes.members
        sizes = [sum(end - begin for rank in ranks for begin, end in self.group.owned[rank]) for ranks in members]
        received = of(self.flat).xp.empty(sum(sizes), self.flat.dtype)
        lanes.wire.allgatherv(self._taken(members[lanes.wire.rank]), received, sizes, checked=False)
        at = 0
        for node, ranks in enumerate(members):
            for begin, end in [part for rank in ranks for part in self.group.owned[rank]]:
                if node != lanes.wire.rank:
                    self.flat[begin:end] = received[at:at + end - begin]
                at += end - begin

    def _taken(self, ranks: Any) -> Any:
        """What these ranks own of the parameters, one range after the other, in new memory."""
        parts = [self.flat[begin:end] for rank in ranks for begin, end in self.group.owned[rank]]
        return of(self.flat).xp.concatenate(parts) if parts else self.flat[:0].copy()

    def _on_devices(self) -> bool:
        """Whether the ranks' devices speak to each other; not after the model was closed. The same on every rank."""
        return self.group.collectives is not None and self.group.collectives.usable

    def _spread(self, whole: Any) -> None:
        """Each rank's part of an array goes to all others, in order with what the device computes; no host waits."""
        collectives = self.group.collectives
        collectives.all_gather(whole, self.group.owned)
        collectives.wait()
        collectives.check()

    def gather(self, mine: Any) -> Any:
        """All ranks' arrays over what they own, put where it belongs in the whole. Collective."""
        with beside((self.flat,)):
            gathered = of(mine).xp.empty(self.group.layout.size, mine.dtype)
            if self._on_devices():
                at = 0
                for begin, end in self.group.owned[self.rank]:
                    gathered[begin:end] = mine[at:at + end - begin]
                    at += end - begin
                self._spread(gathered)
                return gathered
            sizes = [sum(end - begin for begin, end in ranges) for ranges in self.group.owned]
            self.comm.allgatherv(mine, gathered, sizes)
            return self.group.in_place_of_owners(gathered)

    def open(self) -> None:
        """Give every rank a private, writable copy of the parameters."""
        with beside((self.flat,)):
            self._draft = self.flat.copy()
        self._rebind(self._draft, read_only=False)

    def take_and_close(self) -> None:
        """Take each owner's share of its copy, and show the result read-only. Collective."""
        self.meet()
        with beside((self.flat,)):
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
