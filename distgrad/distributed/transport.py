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
from .hooks import mean_hook
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
            return LaneExchange(groups, self.ground, self.flats)
        if self.ground is not None:
            return NodeExchange(groups, self.ground, self.flats.everyone, self.flats.partials)
        return WireExchange(groups, self.comm, self.hook or mean_hook)


def choose(transport: str, hook: Hook | None, comm: Communicator, layouts: Sequence[Layout]) -> Transport:
    """Find a way for gradients of these layouts; the same on every rank. Collective.

    Args:
        transport: 'auto', 'shared' or 'mpi'.

    Raises:
        ValueError: a comm hook together with 'shared'.
        RuntimeError: shared memory was asked for and cannot be had.
    """
    if comm.size == 1 or transport == "mpi" or (hook is not None and transport == "auto"):
        return Transport("mpi", comm, hook, None, memory_of_groups(layouts, None))
    if hook is not None:
        raise ValueError("a comm hook works on what is sent between nodes; it cannot be used with transport='shared'")
    if len(nodes(comm)) == 1:
        memory = node_memory(comm, memory_size(layouts))
        if not isinstance(memory, str):
            return Transport("shared", comm, None, memory, memory_of_groups(layouts, memory))
        reason = memory
    else:
        lanes = open_lanes(comm, memory_size(layouts, sums=True))
        if not isinstance(lanes, str):
            return Transport("lanes", comm, None, lanes, memory_of_groups(layouts, lanes.memory, sums=True))
        reason = lanes
    if transport == "shared":
        raise RuntimeError(f"{rank_prefix()}transport='shared' is not possible here: {reason}")
    if comm.rank == 0:
        print(f"distgrad: gradients travel over MPI, for the ranks cannot share memory: {reason}", file=sys.stderr)
    return Transport("mpi", comm, hook, None, memory_of_groups(layouts, None))
