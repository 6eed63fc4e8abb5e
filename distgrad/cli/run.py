"""`distgrad run`: one script on N ranks, by whichever MPI is here, or on threads."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.machinery import PathFinder

from distgrad.cli.launcher import Job, command_line, find_mpiexec, identify
from distgrad.cli.registry import CommandError, command
from distgrad.cli.supervise import supervise
from distgrad.config import child_environment

__all__ = ["run", "start"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "distgrad run -n N [options] script.py [args]\n       distgrad run -n N [options] -m module [args]"
    parser.add_argument("-n", "--ranks", type=int, required=True, metavar="N", help="how many ranks")
    parser.add_argument("--simulate", action="store_true", help="ranks are threads of one process; needs no MPI")
    parser.add_argument("--dry-run", action="store_true", help="print the command line and do nothing")
    parser.add_argument("--timeout", type=float, metavar="S",
                        help="after S seconds write all ranks' stacks, end the job, exit with 124")
    parser.add_argument("--host", metavar="A,B:4", help="hosts, with the number of ranks on each if wanted")
    parser.add_argument("--hostfile", metavar="F", help="a file with one host a line, as your mpiexec reads it")
    parser.add_argument("--bind", choices=("auto", "core", "none"), default="auto",
                        help="bind each rank to cores of its own (default: if there are enough)")
    parser.add_argument("--threads", type=int, metavar="T",
                        help="BLAS threads per rank (default: OMP_NUM_THREADS, or the cores shared out)")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="module", help="run a module")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="script.py", help="run a file, with its arguments")


@command("run", _configure)
def run(args: argparse.Namespace) -> int:
    """Start a script on several ranks.

    Finds mpiexec beside this Python or on PATH, recognises Open MPI, MPICH and Intel MPI, and adds
    what each needs: more ranks than cores, binding, thread counts, root's consent. An exception on
    one rank ends all of them, with one traceback and an exit code that is not 0.
    """
    _check(args)
    program = ("-m", *args.module) if args.module else tuple(args.program)
    if args.simulate:
        return _simulate(args, program)
    job = Job(args.ranks, program, args.host, args.hostfile, args.bind, args.threads)
    return start(job, args.timeout, args.dry_run)


def start(job: Job, timeout: float | None = None, dry_run: bool = False) -> int:
    """Say the command line that starts the job, run it to its end, and return its exit code."""
    environment = child_environment()
    mpiexec = find_mpiexec(environment)
    line = command_line(job, mpiexec, identify(mpiexec), environment)
    print(line, file=sys.stderr, flush=True)
    return 0 if dry_run else supervise(line, {**environment, **line.variables}, timeout)


def _check(args: argparse.Namespace) -> None:
    if args.ranks < 1:
        raise CommandError(f"-n {args.ranks}: the number of ranks must be at least 1")
    if args.threads is not None and args.threads < 1:
        raise CommandError(f"--threads {args.threads}: each rank needs at least 1")
    if args.timeout is not None and args.timeout <= 0:
        raise CommandError(f"--timeout {args.timeout:g}: give a number of seconds above 0")
    if args.simulate and (args.host or args.hostfile):
        raise CommandError("--simulate runs in this process; leave out --host and --hostfile")
    if args.module is not None:
        if not args.module:
            raise CommandError("-m needs the name of a module")
        if not _importable(args.module[0]):
            raise CommandError(f"there is no module named {args.module[0]}")
    elif not args.program:
        raise CommandError("which script? Give a file, or -m and a module")
    elif not os.path.isfile(args.program[0]):
        raise CommandError(f"there is no file {args.program[0]} in {os.getcwd()}")


def _importable(name: str) -> bool:
    # `python -m`, which the ranks are started with, looks in the current folder first.
    return PathFinder.find_spec(name.split(".")[0], [os.getcwd(), *sys.path]) is not None


def _simulate(args: argparse.Namespace, program: tuple[str, ...]) -> int:
    print(f"{args.ranks} simulated ranks: {' '.join(program)}", file=sys.stderr, flush=True)
    if args.dry_run:
        return 0
    from distgrad.cli.simulated import run_simulated

    return run_simulated(args.ranks, program, args.timeout)
