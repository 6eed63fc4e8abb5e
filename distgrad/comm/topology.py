"""Which ranks there are, and which of them share a machine.

It decides between a world of one and MPI, and gathers the identity of each rank's host. It starts
nothing: what shares memory, and how, is decided by those who ask.
"""

from __future__ import annotations

import socket
import sys
import warnings
from pathlib import Path
from weakref import WeakKeyDictionary

from ..config import launcher, waiting_tasks
from . import mpi
from .base import Communicator
from .single import SelfCommunicator

__all__ = ["host", "local_rank", "machine", "node_ranks", "nodes", "world_communicator"]

_alone: SelfCommunicator | None = None
_nodes: WeakKeyDictionary[Communicator, tuple[tuple[int, ...], ...]] = WeakKeyDictionary()


def world_communicator() -> Communicator:
    """The communicator of all ranks that were launched together; the same object each time.

    Without a launcher, and as long as the program has not loaded mpi4py.MPI itself, it is a world of one
    that needs no MPI library. Raises RuntimeError when the launcher started more tasks than MPI sees, and in a
    process that a rank has started by multiprocessing: MPI cannot be joined from there. Warns in a batch script's
    own process when the script was given several tasks.
    """
    global _alone
    launched = launcher()
    if not mpi.is_loaded() and (launched is None or launched.size == 1):
        if _alone is None or _alone.closed:
            _alone = SelfCommunicator("world")
            if waiting_tasks() > 1:
                warnings.warn(f"Slurm was asked for {waiting_tasks()} tasks, and this is a single process: start it "
                              f"with distgrad run -n {waiting_tasks()}, or with srun", RuntimeWarning, stacklevel=2)
        return _alone
    if _is_child():
        raise RuntimeError("this process was started by a rank and is none itself, such as a worker process of "
                           "a DataLoader: ask for ranks before, where the dataset is made")
    world = mpi.library().COMM_WORLD
    if launched is not None and launched.size is not None and launched.size > world.Get_size():
        raise RuntimeError(_split_world(launched.name, launched.size, world.Get_size()))
    return mpi.wrap(world)


def _is_child() -> bool:
    module = sys.modules.get("multiprocessing.process")  # loaded in whatever it has started
    return module is not None and module.parent_process() is not None


def host() -> str:
    """The name of this machine, as messages show it."""
    return socket.gethostname()


def local_rank(comm: Communicator | None = None) -> int:
    """This rank's number among the ranks of `comm` on its machine; without `comm`, what the launcher said.

    0 when there is no launcher, or when it does not say.
    """
    if comm is not None:
        return node_ranks(comm).index(comm.rank)
    launched = launcher()
    return launched.local_rank or 0 if launched is not None else 0


def node_ranks(comm: Communicator) -> tuple[int, ...]:
    """The ranks of `comm` that share this rank's machine, itself among them. Collective at the first call."""
    return next(ranks for ranks in nodes(comm) if comm.rank in ranks)


def nodes(comm: Communicator) -> tuple[tuple[int, ...], ...]:
    """The ranks of `comm` by machine, in the order of each machine's first rank.

    Machines are told apart by host name, boot and process namespace, so containers on one machine that
    cannot see each other's processes count as several. Collective at the first call, then remembered.
    """
    found = _nodes.get(comm)
    if found is None:
        ranks: dict[bytes, list[int]] = {}
        for rank, identity in enumerate(comm.allgather_bytes(_identity() + comm.machine)):
            ranks.setdefault(identity, []).append(rank)
        found = _nodes[comm] = tuple(tuple(group) for group in ranks.values())
    return found


def machine() -> str:
    """What tells this machine from others, the same in all of its containers: its boot, or else its name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else host()


def _identity() -> bytes:
    namespace = Path("/proc/self/ns/pid")
    parts = [host(), machine(), str(namespace.readlink()) if namespace.is_symlink() else ""]
    return "\n".join(parts).encode()


def _split_world(name: str, tasks: int, size: int) -> str:
    vendor = " ".join(str(part) for part in mpi.library().get_vendor())
    if name in ("Slurm", "PMI", "PMIx"):
        advice = ("start it with srun --mpi=pmix for Open MPI or srun --mpi=pmi2 for MPICH "
                  "(srun --mpi=list shows what this cluster has)")
    elif name == "Flux":
        advice = "start it with flux run -o pmi=pmix for Open MPI; MPICH needs no option"
    else:
        advice = ("start it with the mpiexec of that library: the one in the same directory as this python, "
                  "or the one of the loaded MPI module")
    return (f"{name} started {tasks} tasks, but MPI ({vendor}) sees a world of {size}: every task would train alone. "
            f"The launcher and the MPI library do not belong together: {advice}")
