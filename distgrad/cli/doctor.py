"""`distgrad doctor`: what is installed here, what fits together, and what to do where it does not.

It owns the order of the report and the exit code. What is looked at is in `machine` and `gpus`, without MPI,
and in `world`; nothing is changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from distgrad.cli import gpus, machine, world
from distgrad.cli.finding import Finding
from distgrad.cli.registry import CommandError, command
from distgrad.config import launcher

__all__ = ["doctor"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--ranks", type=int, default=2, metavar="N", help="how many ranks to try (default 2)")
    parser.add_argument("--quick", action="store_true", help="do not start ranks")


@command("doctor", _configure)
def doctor(args: argparse.Namespace) -> int:
    """Say what is installed, whether it fits together, and what to do if not.

    Starts a few ranks as distgrad run does, has them find each other and add up arrays of three sizes.
    Inside an allocation the ranks go to its nodes; started by mpirun or srun as several ranks, it examines
    those. The exit code is 0 if training on several ranks can work here, and 1 if something stands in its way.
    """
    if args.ranks < 1:
        raise CommandError(f"-n {args.ranks}: the number of ranks must be at least 1")
    here = launcher()
    if here is None or (here.size or 1) == 1:
        ranks: Iterable[Finding] = () if args.quick else world.ranks(args.ranks)
    elif not here.rank:
        # Asked before MPI starts in this process, as it may not like children afterwards.
        before = [finding for check in _CHECKS for finding in check()]
        return _report([*before, *(world.together() or ())])
    else:
        world.together()
        return 0
    return _report(finding for findings in (*(check() for check in _CHECKS), ranks) for finding in findings)


_CHECKS = (machine.python, machine.arrays, machine.processor, machine.memory, gpus.gpus, machine.scheduler,
           world.library)


def _report(findings: Iterable[Finding]) -> int:
    bad = False
    for finding in findings:
        mark = "!!" if finding.bad else "note" if finding.advice else "ok"
        print(f"{mark:>4}  {finding.name:<10} {finding.text}", flush=True)
        if finding.advice:
            print(f"{'':>17}-> {finding.advice}", flush=True)
        bad |= finding.bad
    return int(bad)
