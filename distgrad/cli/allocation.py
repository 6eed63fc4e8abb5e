"""Which batch system's allocation this process is in, and what it says about its nodes.

It reads the variables that Slurm, PBS, LSF and Flux set, and the host files that they name. It
starts nothing and decides nothing: `starter` picks the launcher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distgrad.cli.cores import allowed_cores
from distgrad.cli.registry import CommandError

__all__ = ["Allocation", "allocation", "hosts_in"]

INTERACTIVE_STEP = "4294967290"  # Slurm's number for the shell that salloc opens on the first node


@dataclass(frozen=True)
class Allocation:
    """The nodes that a scheduler gave to this job.

    hostfile: a list of hosts, one line a slot, for launchers that do not ask the scheduler.
    cores: of each node; None where the scheduler does not say, and this process' own mask has to do.
    """

    scheduler: str
    job: str
    nodes: int = 1
    hostfile: str | None = None
    cores: int | None = None


def allocation(environment: Mapping[str, str]) -> Allocation | None:
    """The allocation that this process may start ranks in; None outside of one, and inside of a job step.

    Raises:
        CommandError: the scheduler names a host file that cannot be read.
    """
    env = environment
    if "FLUX_URI" in env and "FLUX_TASK_RANK" not in env:
        return Allocation("Flux", env.get("FLUX_ENCLOSING_ID", env["FLUX_URI"]))
    if "LSB_JOBID" in env and "LSB_DJOB_HOSTFILE" in env:
        listed = env["LSB_DJOB_HOSTFILE"]
        return Allocation("LSF", env["LSB_JOBID"], len(_compute(hosts_in(listed))), listed)
    if "PBS_JOBID" in env and "PBS_NODEFILE" in env:
        listed = env["PBS_NODEFILE"]
        return Allocation("PBS", env["PBS_JOBID"], max(1, len(hosts_in(listed))), listed)
    if "SLURM_JOB_ID" in env and env.get("SLURM_STEP_ID", INTERACTIVE_STEP) == INTERACTIVE_STEP:
        cores = _number(env, "SLURM_JOB_CPUS_PER_NODE")
        if cores and "SLURMD_NODENAME" in env:  # on a node; where Slurm does not confine jobs, the mask is all of it
            cores = min(cores, allowed_cores())
        return Allocation("Slurm", env["SLURM_JOB_ID"], max(1, _number(env, "SLURM_JOB_NUM_NODES") or 1), cores=cores)
    return None


def hosts_in(path: str) -> Counter[str]:
    """The hosts of a host file, each with the number of its lines; comments and what follows the name are left out.

    Raises:
        CommandError: it cannot be read.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the host file cannot be read: {error}") from None
    words = (line.split("#")[0].split() for line in lines)
    return Counter(found[0].split(":")[0] for found in words if found)


def _compute(hosts: Counter[str]) -> Counter[str]:
    """Without the node that only runs the script: where LSF has one, it comes first, with a single slot."""
    first = next(iter(hosts), None)
    if first is not None and len(hosts) > 1 and hosts[first] == 1 and all(
            count > 1 for host, count in hosts.items() if host != first):
        return Counter({host: count for host, count in hosts.items() if host != first})
    return hosts or Counter({"": 1})


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """The number that a variable begins with: "4(x2),2" is 4."""
    digits = environment.get(name, "").split("(")[0].split(",")[0]
    return int(digits) if digits.isdigit() else None
