"""What the doctor finds on this machine without MPI: Python, arrays, cores, memory, the scheduler.

Each check yields findings and changes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from distgrad.cli.allocation import allocation
from distgrad.cli.cores import allowed_cores, allowed_cpus
from distgrad.cli.finding import Finding, ask, version
from distgrad.cli.registry import CommandError
from distgrad.config import child_environment, launcher, waiting_tasks

__all__ = ["arrays", "memory", "processor", "python", "scheduler"]

LITTLE = 64 << 20  # bytes of /dev/shm that MPI libraries do not get along with
SUBMIT = {"Slurm": "sbatch", "PBS": "qsub", "LSF": "bsub", "Flux": "flux"}


def python() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} at {sys.executable}, {platform.platform(terse=True)}")
    if sys.platform not in ("linux", "darwin"):
        yield Finding("system", sys.platform, "Linux is supported, macOS works; on Windows use WSL", bad=True)
    yield Finding("distgrad", f"{version('distgrad') or 'not installed'}, from {Path(__file__).parents[1]}")


def arrays() -> Iterator[Finding]:
    import numpy
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    names = [f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads" for pool in pools]
    threads = max((pool["num_threads"] for pool in pools), default=1)
    yield Finding("numpy", f"{numpy.__version__}, {'; '.join(names) or 'BLAS of an unknown kind'}",
                  f"{threads} BLAS threads on {allowed_cores()} cores wait for each other: set OMP_NUM_THREADS, or "
                  "have distgrad run set it" if threads > len(allowed_cpus()) else "")
    yield _blas()
    if version("numba") is None:
        yield Finding("numba", "not installed", 'fused kernels are off; pip install "distgrad[fast]" turns them on')
    else:
        yield Finding("numba", f"{version('numba')}, fused kernels")


def _blas() -> Finding:
    from distgrad.backend import blas

    try:
        return Finding("blas", f"products by {blas.describe()}")
    except (OSError, RuntimeError, ValueError) as error:
        return Finding("blas", "not the one asked for", str(error), bad=True)


def processor() -> Iterator[Finding]:
    cpus, cores, every = allowed_cpus(), allowed_cores(), os.cpu_count() or 1
    yield Finding("cores", f"{cores} cores ({len(cpus)} of {every} CPUs) in the affinity mask",
                  "" if cores > 1 else "ranks will share it; ask the scheduler for more cores per task, or pass "
                  "--bind none to the launcher")
    load = os.getloadavg()[0]
    yield Finding("load", f"{load:.1f} processes computing on this node's {every} CPUs",
                  "others compute here too, and each step waits for the slowest rank: ask for the node alone "
                  "(--job-extra-directives=--exclusive under Slurm)" if load > 0.5 * every + 0.5 else "")


def memory() -> Iterator[Finding]:
    total, free = _memory()
    if total:
        yield Finding("memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
                      "nearly full: fewer ranks per node, or another node" if free < total / 20 else "")
    if Path("/dev/shm").is_dir():
        usage = shutil.disk_usage("/dev/shm")
        small = usage.free < LITTLE
        yield Finding("/dev/shm", f"{usage.free >> 20} MiB of {usage.total >> 20} MiB free",
                      "MPI libraries put their buffers there; in Docker, give the container --shm-size=1g"
                      if small else "", bad=small)


def _memory() -> tuple[int, int]:
    """Bytes of memory that there are and that are free, within this process's control group; zeros off Linux."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return 0, 0
    group = Path("/sys/fs/cgroup")
    for limit, used in (("memory.max", "memory.current"),
                        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            most, now = int((group / limit).read_text()), int((group / used).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if most < total:
            return most, max(0, min(free, most - now))
    return total, free


def scheduler() -> Iterator[Finding]:
    environment = child_environment()
    here = launcher()
    if here:
        yield Finding("launcher", f"{here.name}: rank {here.rank} of {here.size}, local rank {here.local_rank}")
    try:
        found = allocation(environment)
    except CommandError as error:
        yield Finding("scheduler", "an allocation that cannot be read", str(error), bad=True)
        return
    if found:
        tasks = waiting_tasks()
        yield Finding("scheduler", f"{found.scheduler}, job {found.job}, {found.nodes} nodes"
                      + (f", {tasks} tasks" if tasks else ""))
        return
    there = [name for name, program in SUBMIT.items() if shutil.which(program)]
    if there and not here:
        yield Finding("scheduler", f"{' and '.join(there)}, outside of an allocation",
                      f"distgrad job --scheduler {there[0].lower()} writes a job script")
    elif not here:
        yield Finding("scheduler", "none")
    if there == ["Slurm"] and ask("sinfo", "--version") and ask("sinfo") is None:
        yield Finding("slurm", "its commands are here, its controller does not answer",
                      "this node may be no part of the cluster: use a login node")
