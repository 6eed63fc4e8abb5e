"""How many cores this process may use: the affinity mask, without a core's second hardware thread."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["allowed_cores", "allowed_cpus"]

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def allowed_cpus() -> list[int]:
    """The numbers of the logical CPUs in this process's affinity mask; all of them off Linux."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def allowed_cores() -> int:
    """The number of physical cores in the mask, which is what a launcher binds ranks to."""
    return len({_siblings(cpu) for cpu in allowed_cpus()})


def _siblings(cpu: int) -> str:
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text().strip()
    except OSError:
        return str(cpu)
