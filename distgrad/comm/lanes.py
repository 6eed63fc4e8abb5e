"""Lanes: how the ranks of several nodes stand to each other, and the communicators that join them.

There are as many lanes as the smallest node has ranks, so that every path of the network is used and
each byte crosses it once. It decides who belongs to which lane; what travels there is the users' affair.
"""

from __future__ import annotations

from dataclasses import dataclass

from .base import Communicator
from .shared import NodeMemory, node_memory
from .topology import nodes

__all__ = ["Lanes", "open_lanes"]


@dataclass(frozen=True)
class Lanes:
    """One rank's place among nodes and lanes.

    Attributes:
        nodes: the ranks of each node, in the order in which nodes are summed.
        count: how many lanes there are.
        lane: the lane to whose part this rank's work belongs.
        fellows: the local ranks [begin, end) of this node that work for the lane; the first one transports.
        memory: what the ranks of this node share; `memory.comm` joins them.
        wire: joins the lane's ranks, one of each node in the order of `nodes`; None on ranks that transport nothing.
    """

    nodes: tuple[tuple[int, ...], ...]
    count: int
    lane: int
    fellows: tuple[int, int]
    memory: NodeMemory
    wire: Communicator | None

    @property
    def members(self) -> list[tuple[int, ...]]:
        """For each node the ranks that work for this rank's lane."""
        return [tuple(rank for local, rank in enumerate(ranks) if local * self.count // len(ranks) == self.lane)
                for ranks in self.nodes]

    def close(self) -> None:
        """Give the communicators back; collective."""
        if self.wire is not None:
            self.wire.close()
        self.memory.comm.close()


def open_lanes(comm: Communicator, nbytes: int) -> Lanes | str:
    """Shared memory of `nbytes` for every rank on its node, and lanes between the nodes. Collective.

    Returns:
        The lanes; or, on every rank alike, the reason why a node cannot share memory.
    """
    places = nodes(comm)
    number = next(index for index, ranks in enumerate(places) if comm.rank in ranks)
    here = places[number]
    local = here.index(comm.rank)
    node = comm.split(number, local)
    assert node is not None
    memory = node_memory(node, nbytes)
    problems = [text.decode() for text in comm.allgather_bytes(memory.encode() if isinstance(memory, str) else b"")]
    if any(problems) or isinstance(memory, str):
        node.close()
        return next(filter(None, problems))
    count = min(map(len, places))
    lane = local * count // len(here)
    fellows = [rank for rank in range(len(here)) if rank * count // len(here) == lane]
    wire = comm.split(lane if local == fellows[0] else None, number)
    return Lanes(places, count, lane, (fellows[0], fellows[-1] + 1), memory, wire)
