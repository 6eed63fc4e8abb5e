"""A job that a scheduler is to be asked for, checked at the door.

It knows what can be asked for and how sizes and times are written, and no scheduler. Names go into
directives, which cannot quote alike everywhere, so it lets in only characters that need no quotes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from distgrad.cli.registry import CommandError

__all__ = ["Request", "seconds"]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@:,=/-]*")
FILE = re.compile(r"[A-Za-z0-9_.~/][A-Za-z0-9_.+@:,=/~-]*")
MEMORY = re.compile(r"([1-9]\d*)\s*([KMGT]?)i?B?", re.IGNORECASE)
WALLTIME = re.compile(r"(\d{1,4}):([0-5]\d):([0-5]\d)")


@dataclass(frozen=True)
class Request:
    """A job as the user wants it; what cannot be asked for raises CommandError.

    program: the script or `-m module`, and its arguments.
    cores: of each node; threads: BLAS threads of each rank. Either follows from the other.
    memory: of each node, such as 16GB. warning: seconds before the end at which ranks get SIGUSR2.
    pmi: srun's --mpi=; empty has `distgrad run` find the launcher when the job starts.
    """

    program: tuple[str, ...]
    nodes: int
    ranks_per_node: int
    walltime: str
    name: str
    python: str
    queue: str = ""
    account: str = ""
    cores: int = 0
    threads: int = 0
    memory: str = ""
    gpus: int = 0
    log_directory: str = ""
    warning: int = 180
    requeue: bool = True
    launcher: str = "auto"
    pmi: str = ""
    prologue: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, number, least in (("--nodes", self.nodes, 1), ("--ranks-per-node", self.ranks_per_node, 1),
                                      ("--cores", self.cores, 0), ("--threads", self.threads, 0),
                                      ("--gpus-per-node", self.gpus, 0), ("--warning", self.warning, 0)):
            if number < least:
                raise CommandError(f"{option} {number}: must be at least {max(1, least) if number < 0 else least}")
        for option, text, allowed in (("--queue", self.queue, NAME), ("--account", self.account, NAME),
                                      ("--job-name", self.name, NAME), ("--log-directory", self.log_directory, FILE),
                                      ("--mpi", self.pmi, NAME)):
            if text and not allowed.fullmatch(text):
                raise CommandError(f"{option} {text!r}: letters, digits and _ . + @ : , = / - only; a directive "
                                   "cannot quote the others in every scheduler")
        if self.memory and not MEMORY.fullmatch(self.memory):
            raise CommandError(f"--memory {self.memory!r}: give a whole number and a unit, such as 16GB")
        for option, lines in (("--job-script-prologue", self.prologue), ("--job-extra-directives", self.extra)):
            for line in lines:
                if not line.isprintable():
                    raise CommandError(f"{option} {line!r}: one line each; give the option several times")
        if seconds(self.walltime) <= self.warning:
            raise CommandError(f"--walltime {self.walltime} leaves no time before the warning, {self.warning} s ahead "
                               "of its end; make it longer, or --warning shorter")
        if self.cores and self.cores < self.ranks_per_node * max(1, self.threads):
            raise CommandError(f"--cores {self.cores}: {self.ranks_per_node} ranks of {max(1, self.threads)} threads "
                               f"need {self.ranks_per_node * max(1, self.threads)} on each node")

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def cores_per_rank(self) -> int:
        return self.cores // self.ranks_per_node or self.threads or 1

    @property
    def node_cores(self) -> int:
        return self.cores or self.ranks_per_node * self.cores_per_rank

    @property
    def mebibytes(self) -> int:
        found = MEMORY.fullmatch(self.memory)
        if found is None:
            return 0
        scale = {"": 1 << 20, "K": 1 << 10, "M": 1, "G": 1 / 1024, "T": 1 / (1 << 20)}[found[2].upper()]
        return math.ceil(int(found[1]) / scale)

    def log(self, name: str) -> str:
        return f"{self.log_directory.rstrip('/') or '/'}/{name}" if self.log_directory else name


def seconds(walltime: str) -> int:
    """HH:MM:SS as seconds.

    Raises:
        CommandError: it is not written so, or is no time at all.
    """
    found = WALLTIME.fullmatch(walltime)
    total = sum(int(part) * unit for part, unit in zip(found.groups(), (3600, 60, 1))) if found else 0
    if not total:
        raise CommandError(f"--walltime {walltime!r}: write it as HH:MM:SS, such as 01:30:00")
    return total
