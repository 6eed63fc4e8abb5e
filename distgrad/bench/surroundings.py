"""What a measurement depends on besides the code: BLAS, compiled kernels, cores. Said with every result.

`one_core` makes a process what a pinned rank is: one core, one BLAS thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from ..backend import blas
from ..comm import Communicator
from ..config import config

__all__ = ["one_core", "surroundings", "tell", "threads"]


def surroundings(comm: Communicator) -> dict[str, str]:
    """What is installed, and the CPUs that each rank may run on. Collective."""
    compiled = config.kernels != "reference" and find_spec("numba") is not None
    return {
        "numpy": f"{np.__version__}, {_pools()}",
        "blas": f"products by {blas.describe()}",
        "kernels": f"compiled (numba {version('numba')})" if compiled else "reference (numpy)",
        "cpus": "; ".join(mask.decode() for mask in comm.allgather_bytes(_mask().encode())),
    }


def tell(where: dict[str, str]) -> None:
    """Print what `surroundings` found."""
    print("\n".join(f"{name}: {text}" for name, text in where.items()))


def _pools() -> str:
    pools = [f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'any processor')}), "
             f"{threads(pool['num_threads'])}" for pool in threadpool_info() if pool["user_api"] == "blas"]
    return " and ".join(dict.fromkeys(pools)) or "BLAS of an unknown kind"


def threads(count: int) -> str:
    """So many threads, in words."""
    return f"{count} thread{'s' * (count != 1)}"


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _mask() -> str:
    return ",".join(map(str, _cpus()))


@contextmanager
def one_core() -> Iterator[None]:
    """Inside, this thread runs on the last of its CPUs alone, and BLAS on one thread."""
    before = _cpus()
    with threadpool_limits(1):
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        os.sched_setaffinity(0, before[-1:])
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)
