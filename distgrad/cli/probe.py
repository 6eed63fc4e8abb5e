"""What several ranks find out together for the doctor: `python -m distgrad.cli.probe`.

Started by the doctor, or called by it inside of a world that is there already. Rank 0 has the
answers; as a program it prints them as one line of JSON behind MARK.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from distgrad.cli.cores import allowed_cpus
from distgrad.comm import Communicator, host, nodes
from distgrad.comm.mpi import library, takes_cuda
from distgrad.comm.shared import node_memory
from distgrad.comm.topology import world_communicator

__all__ = ["MARK", "SIZES", "examine", "main"]

MARK = "distgrad-probe "
SIZES = (1 << 10, 1 << 20, 1 << 25)  # bytes
LEVELS = ("single", "funneled", "serialized", "multiple")


def examine(comm: Communicator) -> dict[str, Any]:
    """The ranks' nodes, CPUs and threads, how they share memory, and how fast they add up. Collective."""
    from threadpoolctl import threadpool_info

    threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    mine = {"host": host(), "cpus": allowed_cpus(), "threads": threads}
    ranks = [json.loads(one) for one in comm.allgather_bytes(json.dumps(mine).encode())]
    shared = node_memory(comm, 1 << 12) if len(nodes(comm)) == 1 and comm.size > 1 else ""
    mpi = library()
    levels = sorted((mpi.THREAD_SINGLE, mpi.THREAD_FUNNELED, mpi.THREAD_SERIALIZED, mpi.THREAD_MULTIPLE))
    return {"size": comm.size, "ranks": ranks, "nodes": nodes(comm),
            "apart": shared if isinstance(shared, str) else "",  # why the node's ranks share no memory
            "thread level": LEVELS[levels.index(mpi.Query_thread())],
            "cuda": takes_cuda(), "seconds": [_allreduce(comm, size) for size in SIZES]}


def _allreduce(comm: Communicator, nbytes: int) -> float:
    """The median time of a sum of that many bytes over the ranks; the slowest rank's."""
    import numpy as np

    send, recv = np.ones(nbytes // 4, np.float32), np.empty(nbytes // 4, np.float32)
    times = []
    for _ in range(3 if nbytes > 1 << 22 else 20):
        comm.barrier()
        start = time.perf_counter()
        comm.allreduce(send, recv)
        times.append(time.perf_counter() - start)
    if recv[0] != comm.size or recv[-1] != comm.size:
        raise RuntimeError(f"a sum of ones over {comm.size} ranks came out as {recv[0]}")
    found = comm.allgather_bytes(str(statistics.median(times)).encode())
    return max(float(one) for one in found)


def main() -> None:
    """Examine the world and have rank 0 print what was found."""
    comm = world_communicator()
    found = examine(comm)
    if comm.rank == 0:
        print(MARK + json.dumps(found), flush=True)
    comm.barrier()


if __name__ == "__main__":
    main()
