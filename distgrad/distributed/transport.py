"""Which way a model's gradients take: from device to device, a node's memory, lanes between nodes, the wire alone.

It asks `comm` what is possible and says in one line what is not; the exchanges do the rest.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..backend import Collectives
from ..comm import Communicator, nodes
from ..comm.devices import DeviceRanks, open_devices
from ..comm.lanes import Lanes, open_lanes
from ..comm.shared import NodeMemory, node_memory
from ..comm.staging import on_host
from ..errors import rank_prefix
from ..flat import Group, Layout
from .bucket import Hook
from .exchange import Exchange, NodeExchange, WireExchange
from .hook_exchange import HookExchange
from .hooks import acts_between_nodes, mean_hook
from .lanes import LaneExchange
from .memory import FlatMemory, memory_of_groups, memory_size
from .nccl_exchange import NcclExchange

__all__ = ["Transport", "choose", "join_devices"]


@dataclass(frozen=True)
class Transport:
    """What was chosen.

    Attributes:
        name: 'nccl', 'shared', 'lanes' or 'mpi'.
        flats: the memory of the groups' gradients; None for those that never are on the host.
        devices: what joins the ranks' devices, where gradients go from device to device.
        others: the way of the gradients that lie on the host, if there are any beside those on devices.
    """

    name: str
    comm: Communicator
    hook: Hook | None
    ground: NodeMemory | Lanes | None
    flats: FlatMemory
    devices: DeviceRanks | None = None
    others: Transport | None = None

    @property
    def collectives(self) -> Collectives | None:
        """Those among devices."""
        return None if self.devices is None else self.devices.collectives

    def exchange(self, groups: Sequence[Group]) -> Exchange:
        """The exchange of these groups, whose gradients lie in `flats`. Collective."""
        if self.devices is not None:
            others = None if self.others is None else self.others.exchange([g for g in groups if on_host(g.flat)])
            return NcclExchange([g for g in groups if not on_host(g.flat)], self.devices, others)
        if isinstance(self.ground, Lanes):
            return LaneExchange(groups, self.ground, self.flats, self.hook)
        if self.ground is not None:
            return NodeExchange(groups, self.ground, self.flats.everyone, self.flats.partials)
        if self.hook is None or self.hook is mean_hook:
            return WireExchange(groups, self.comm)
        return HookExchange(groups, self.comm, self.hook)


def join_devices(transport: str, hook: Hook | None, comm: Communicator,
                 kinds: Sequence[Sequence[tuple[str, Any]]]) -> DeviceRanks | None:
    """What joins the ranks' devices, where gradients can go from one to another; None for any other way. Collective.

    Args:
        kinds: (name, parameter) by dtype and device.

    Raises:
        ValueError: a comm hook together with 'nccl'.
        RuntimeError: NCCL was asked for and cannot be had.
    """
    if transport == "nccl" and hook is not None:
        raise ValueError("a comm hook works on gradients in memory of the host, which do not pass there with "
                         "transport='nccl'; leave the transport to 'auto'")
    if transport not in ("auto", "nccl") or hook is not None or comm.size == 1:
        return None
    arrays = [members[0][1].array for members in kinds]
    there = [[not on_host(array), [name for name, _ in members]] for array, members in zip(arrays, kinds, strict=True)]
    devices = open_devices(comm, arrays, json.dumps(there) if any(moved for moved, _ in there) else "")
    if not isinstance(devices, str):
        return devices
    if transport == "nccl":
        raise RuntimeError(f"{rank_prefix()}transport='nccl' is not possible here: "
                           f"{devices or 'the parameters of no rank lie on a CUDA device'}")
    if devices and comm.rank == 0:
        print(f"distgrad: gradients on devices travel by way of the host, not by NCCL: {devices}", file=sys.stderr)
    return None


def choose(transport: str, hook: Hook | None, comm: Communicator, layouts: Sequence[Layout],
           devices: DeviceRanks | None = None, there: Sequence[bool] = ()) -> Transport:
    """Find a way for gradients of these layouts; the same on every rank. Collective.

    Args:
        transport: 'auto', 'nccl', 'shared' or 'mpi'.
        devices: what `join_devices` found.
        there: for each layout whether it lies on a device.

    Raises:
        ValueError: a comm hook together with 'shared'.
        RuntimeError: shared memory was asked for and cannot be had.
    """
    if devices is None:
        return _by_host("auto" if transport == "nccl" else transport, hook, comm, layouts)
    here = [layout for layout, moved in zip(layouts, there, strict=True) if not moved]
    others = _by_host("auto", None, comm, here) if here else None
    hosts = iter(others.flats.mine if others is not None else ())
    mine: list[Any] = [None if moved else next(hosts) for moved in there]
    return Transport("nccl", comm, None, None, FlatMemory(mine, [], [], []), devices, others)


def _by_host(transport: str, hook: Hook | None, comm: Communicator, layouts: Sequence[Layout]) -> Transport:
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
