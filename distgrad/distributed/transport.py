"""Which way a model's gradients take: memory of one node, lanes between nodes, or the wire alone.

It asks `comm` what is possible and says in one line what is not; the exchanges do the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..comm import Communicator, nodes
from ..comm.lanes import Lanes, open_lanes
from ..comm.shared import NodeMemory, node_memory
from ..errors import rank_prefix
from ..flat import Group, Layout
from .bucket import Hook
from .exchange import Exchange, NodeExchange, WireExchange
from .hook_exchange import HookExchange
from .hooks import acts_between_nodes, mean_hook
from .lanes import LaneExchange
from .memory import FlatMemory, memory_of_groups, memory_size

__all__ = ["Transport", "choose"]


@dataclass(frozen=True)
class Transport:
    """What was chosen.

    Attributes:
        name: 'shared', 'lanes' or 'mpi'.
        flats: the memory of the groups' gradients.
    """

    name: str
    comm: Communicator
    hook: Hook | None
    ground: NodeMemory | Lanes | None
    flats: FlatMemory

    def exchange(self, groups: Sequence[Group]) -> Exchange:
        """The exchange of these groups, whose gradients lie in `flats`. Collective."""
        if isinstance(self.ground, Lanes):
            return LaneExchange(groups, self.ground, self.flats, self.hook)
        if self.ground is not None:
            return NodeExchange(groups, self.ground, self.flats.everyone, self.flats.partials)
        if self.hook is None or self.hook is mean_hook:
            return WireExchange(groups, self.comm)
        return HookExchange(groups, self.comm, self.hook)


def choose(transport: str, hook: Hook | None, comm: Communicator, layouts: Sequence[Layout]) -> Transport:
    """Find a way for gradients of these layouts; the same on every rank. Collective.

    Args:
        transport: 'auto', 'shared' or 'mpi'.

    Raises:
        ValueError: a comm hook together with 'shared'.
        RuntimeError: shared memory was asked for and cannot be had.
    """
    between = hook is not None and acts_between_nodes(hook)
    everywhere = hook is not None and not between
    if transport == "mpi" or (everywhere and (transport == "auto" or comm.size == 1)):
        return Transport("mpi", comm, hook, None, memory_of_groups(layouts, None))
    if everywhere:
        raise ValueError("this comm hook works on every rank's own gradients, which do not travel with "
                         "transport='shared'; a hook for what is sent between nodes is marked with @between_nodes")
    if comm.size == 1:
        return Transport("mpi", comm, None, None, memory_of_groups(layouts, None))
    if len(nodes(comm)) == 1:
        memory = node_memory(comm, memory_size(layouts))
        if not isinstance(memory, str):
            return Transport("shared", comm, None, memory, memory_of_groups(layouts, memory))
        reason = memory
    else:
        lanes = open_lanes(comm, memory_size(layouts, sums=True))
        if not isinstance(lanes, str):
            return Transport("lanes", comm, hook, lanes, memory_of_groups(layouts, lanes.memory, sums=True))
        reason = lanes
    if transport == "shared":
        raise RuntimeError(f"{rank_prefix()}transport='shared' is not possible here: {reason}")
    if comm.rank == 0:
        print(f"distgrad: gradients travel over MPI, for the ranks cannot share memory: {reason}", file=sys.stderr)
    return Transport("mpi", comm, hook, None, memory_of_groups(layouts, None))
