"""`distgrad job`: a job script for a batch system, printed or submitted.

It owns the options, named as dask-jobqueue names them, and the way to the scheduler's submit
command. What stands in a script is `batch`'s.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from distgrad.cli.batch import SCHEDULERS, script
from distgrad.cli.registry import CommandError, command
from distgrad.cli.request import Request
from distgrad.cli.starter import flux_pmi, library, slurm_pmi
from distgrad.config import child_environment

__all__ = ["job"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = ("distgrad job --scheduler slurm|pbs|lsf|flux --nodes N --ranks-per-node R --walltime HH:MM:SS "
                    "[options] [--submit] -- script.py [args]")
    add = parser.add_argument
    add("--scheduler", required=True, choices=tuple(SCHEDULERS), help="whose job script")
    add("--nodes", type=int, required=True, metavar="N", help="how many nodes")
    add("--ranks-per-node", type=int, required=True, metavar="R", help="how many ranks on each")
    add("--walltime", required=True, metavar="HH:MM:SS", help="how long it may run")
    add("--submit", action="store_true", help="hand the script to the scheduler instead of printing it")
    add("--queue", default="", metavar="Q", help="the queue, or Slurm's partition")
    add("--account", "--project", dest="account", default="", metavar="A", help="who is charged")
    add("--cores", type=int, default=0, metavar="C", help="cores of each node (default: one for each thread)")
    add("--threads", type=int, default=0, metavar="T", help="BLAS threads per rank (default: the cores shared out)")
    add("--memory", default="", metavar="16GB", help="memory of each node")
    add("--gpus-per-node", type=int, default=0, metavar="G", help="GPUs of each node; a rank takes the one of its "
        "local rank")
    add("--job-name", metavar="NAME", help="default: the script's name")
    add("--log-directory", default="", metavar="DIR", help="where the job's output goes; must be there when it starts "
        "(--submit makes it)")
    add("--job-script-prologue", action="append", default=[], metavar="LINE", help="a shell line before the ranks "
        "start, such as 'module load openmpi' (may be repeated)")
    add("--job-extra-directives", action="append", default=[], metavar="=LINE", help="one more directive, given with "
        "an = : --job-extra-directives=--qos=high (may be repeated)")
    add("--job-directives-skip", action="append", default=[], metavar="=WORD", help="leave out directives that "
        "contain it: --job-directives-skip=--mem (may be repeated)")
    add("--warning", type=int, default=180, metavar="S", help="seconds before the end at which the ranks get SIGUSR2, "
        "to save a checkpoint and stop (default 180; 0: no warning)")
    add("--no-requeue", dest="requeue", action="store_false", help="do not run again after preemption or after the "
        "warning")
    add("--resume", metavar="auto", help="hand --resume and this word to the script")
    add("--launcher", choices=("auto", "srun", "mpiexec"), default="auto", help="who starts the ranks (default: srun "
        "under Slurm where it fits the MPI, flux run under Flux, else what distgrad run finds)")
    add("--mpi", default="", metavar="PMI", help="srun's --mpi=, such as pmix (default: as the MPI here wants it)")
    add("--python", default=sys.executable, metavar="PATH", help="who runs the script (default: this Python)")
    add("program", nargs=argparse.REMAINDER, metavar="-- script.py", help="a file with its arguments, or -m module")


@command("job", _configure)
def job(args: argparse.Namespace) -> int:
    """Write a job script for Slurm, PBS, LSF or Flux.

    Prints it, or submits it with --submit. Ahead of the end, or of preemption, all ranks get SIGUSR2; when
    they have stopped with exit code 0, Slurm and LSF run the job again, and it goes on from its newest
    checkpoint if the script takes --resume auto. PBS runs a preempted job again; where the walltime of a
    PBS or Flux job has passed, submit the same script once more.
    """
    program = tuple(args.program[1:] if args.program[:1] == ["--"] else args.program)
    if not program or program == ("-m",):
        raise CommandError("which script? Give a file, or -m and a module, after --")
    if program[0] != "-m" and not os.path.isfile(program[0]):
        raise CommandError(f"there is no file {program[0]} in {os.getcwd()}"
                           + (f"; {program[0]} is no option of distgrad job" if program[0].startswith("-") else ""))
    if args.launcher == "srun" and args.scheduler != "slurm":
        raise CommandError(f"--launcher srun is Slurm's, not {args.scheduler}'s")
    if args.mpi and (args.scheduler not in ("slurm", "flux") or args.launcher == "mpiexec"):
        raise CommandError("--mpi is for ranks that srun or flux run starts")
    stem = Path(program[1] if program[0] == "-m" else program[0]).stem
    request = Request(
        program + (("--resume", args.resume) if args.resume else ()), args.nodes, args.ranks_per_node, args.walltime,
        args.job_name or re.sub(r"[^A-Za-z0-9_]+", "_", stem), args.python, args.queue, args.account, args.cores,
        args.threads, args.memory, args.gpus_per_node, args.log_directory, args.warning, args.requeue, args.launcher,
        args.mpi or _pmi(args.scheduler, args.launcher), tuple(args.job_script_prologue),
        tuple(args.job_extra_directives), tuple(args.job_directives_skip))
    text = script(args.scheduler, request)
    if args.submit:
        return _submit(SCHEDULERS[args.scheduler].submit, text, args.log_directory)
    print(text, end="")
    return 0


def _pmi(scheduler: str, launcher: str) -> str:
    """What srun or flux run has to be told for the MPI of this environment, which the job will run in."""
    if scheduler not in ("slurm", "flux") or launcher == "mpiexec":
        return ""
    version = library(child_environment())
    found = flux_pmi(version) if scheduler == "flux" else slurm_pmi(version)
    if not found and launcher == "srun":
        raise CommandError("which --mpi does srun need? The MPI here is neither Open MPI (pmix) nor MPICH (pmi2)")
    return found


def _submit(words: tuple[str, ...], text: str, log_directory: str) -> int:
    if log_directory:
        try:
            os.makedirs(os.path.expanduser(log_directory), exist_ok=True)
        except OSError as error:
            raise CommandError(f"--log-directory {log_directory} cannot be made: {error}") from None
    try:
        return subprocess.run(words, input=text, text=True).returncode
    except FileNotFoundError:
        raise CommandError(f"there is no {words[0]} on PATH; without --submit the script is printed") from None
