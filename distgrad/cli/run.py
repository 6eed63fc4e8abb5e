"""`distgrad run`: one script on N ranks, by whichever MPI or scheduler is here, or on threads.

It owns the options and what is refused before anything starts. Who starts the ranks is chosen in
`starter`, how is written in `launcher`, and `supervise` and `restart` see it through.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.machinery import PathFinder

from distgrad.cli.launcher import Job, command_line
from distgrad.cli.registry import CommandError, command
from distgrad.cli.restart import persist
from distgrad.cli.starter import LAUNCHERS, choose
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
    parser.add_argument("--launcher", choices=LAUNCHERS, default="auto",
                        help="who starts the ranks (default: inside an allocation its scheduler, where that fits the "
                        "MPI; else mpiexec)")
    parser.add_argument("--max-restarts", type=int, default=0, metavar="N",
                        help="start again after a failure, up to N times; have the script resume, say by --resume auto")
    parser.add_argument("--bind", choices=("auto", "core", "none"), default="auto",
                        help="bind each rank to cores of its own (default: if there are enough)")
    parser.add_argument("--threads", type=int, metavar="T",
                        help="BLAS threads per rank (default: OMP_NUM_THREADS, or the cores shared out)")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="module", help="run a module")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="script.py", help="run a file, with its arguments")


@command("run", _configure)
def run(args: argparse.Namespace) -> int:
    """Start a script on several ranks.

    Finds mpiexec beside this Python or on PATH, recognises Open MPI, MPICH, Intel MPI and PALS, and adds
    what each needs: more ranks than cores, binding, thread counts, root's consent. Inside an allocation
    of Slurm, PBS, LSF or Flux the ranks go to its nodes, by srun, flux run or jsrun where these can start
    this MPI. An exception on one rank ends all of them, with one traceback and an exit code that is not 0.
    """
    _check(args)
    program = ("-m", *args.module) if args.module else tuple(args.program)
    if args.simulate:
        return _simulate(args, program)
    job = Job(args.ranks, program, args.host, args.hostfile, args.bind, args.threads)
    return start(job, args.timeout, args.dry_run, args.launcher, args.max_restarts)


def start(job: Job, timeout: float | None = None, dry_run: bool = False, launcher: str = "auto",
          restarts: int = 0) -> int:
    """Say the command line that starts the job, run it to its end, and return its exit code.

    Args:
        timeout: seconds for one attempt.
        launcher: who starts the ranks, one of `starter.LAUNCHERS`.
        restarts: how often it is started again after a failure.
    """
    environment = child_environment()
    starter = choose(environment, launcher, bool(job.host or job.hostfile))
    line = command_line(job, starter, environment, terminal=sys.stderr.isatty())
    print(line, file=sys.stderr, flush=True)
    if dry_run:
        return 0
    return persist(lambda: supervise(line, {**environment, **line.variables}, timeout), restarts)


def _check(args: argparse.Namespace) -> None:
    if args.ranks < 1:
        raise CommandError(f"-n {args.ranks}: the number of ranks must be at least 1")
    if args.threads is not None and args.threads < 1:
        raise CommandError(f"--threads {args.threads}: each rank needs at least 1")
    if args.timeout is not None and args.timeout <= 0:
        raise CommandError(f"--timeout {args.timeout:g}: give a number of seconds above 0")
    if args.max_restarts < 0:
        raise CommandError(f"--max-restarts {args.max_restarts}: give 0 or more")
    if args.simulate:
        for option, given in (("--host", args.host), ("--hostfile", args.hostfile),
                              ("--max-restarts", args.max_restarts), ("--launcher", args.launcher != "auto")):
            if given:
                raise CommandError(f"--simulate runs in this process; leave out {option}")
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
