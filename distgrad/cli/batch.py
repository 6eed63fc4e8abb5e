"""Job scripts: what Slurm, PBS, LSF and Flux are asked for, and the shell that starts the ranks and hands it back.

Pure functions from a `Request` to text. Directives take only what `Request` allows in; every word
of the user's command is quoted, without a raw line break, for a scheduler may read one as its own.
The launch lines are `launcher`'s, as `distgrad run` would use them.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from typing import NamedTuple

from distgrad.cli.allocation import Allocation
from distgrad.cli.launcher import CommandLine, Job, command_line
from distgrad.cli.registry import CommandError
from distgrad.cli.request import Request, seconds
from distgrad.cli.starter import Starter, Vendor

__all__ = ["SCHEDULERS", "Scheduler", "script"]

AGAIN = 75  # the exit code by which LSF is asked to run the job again: EX_TEMPFAIL


class Scheduler(NamedTuple):
    """How one scheduler is spoken to: before each directive, what submits a script from its input, and the parts.

    opening: shell lines ahead of the user's own, the prologue.
    """

    mark: str
    submit: tuple[str, ...]
    directives: Callable[[Request], Iterator[str]]
    body: Callable[[Request], Iterator[str]]
    opening: tuple[str, ...] = ()


def script(scheduler: str, request: Request) -> str:
    """The whole job script, ready for the scheduler's submit command."""
    kind = SCHEDULERS[scheduler]
    directives = [line for line in (*kind.directives(request), *request.extra)
                  if not any(word in line for word in request.skip)]
    lines = ["#!/usr/bin/env bash", *(f"{kind.mark} {line}" for line in directives), "", *kind.opening,
             *request.prologue, *kind.body(request)]
    return "\n".join(lines) + "\n"


def _slurm(request: Request) -> Iterator[str]:
    yield f"--job-name={request.name}"
    if request.queue:
        yield f"--partition={request.queue}"
    if request.account:
        yield f"--account={request.account}"
    yield f"--nodes={request.nodes}"
    yield f"--ntasks-per-node={request.ranks_per_node}"
    yield f"--cpus-per-task={request.cores_per_rank}"
    if request.memory:
        yield f"--mem={request.mebibytes}M"
    if request.gpus:
        yield f"--gpus-per-node={request.gpus}"
    yield f"--time={request.walltime}"
    if request.warning:
        yield f"--signal=B:USR2@{request.warning}"
    yield "--requeue" if request.requeue else "--no-requeue"
    yield "--open-mode=append"
    yield f"--output={request.log('%x-%j.out')}"


def _slurm_body(request: Request) -> Iterator[str]:
    if request.pmi:
        allocation = Allocation("Slurm", "", request.nodes, cores=request.node_cores)
        line = _line(request, Starter("srun", Vendor.SRUN, request.pmi, allocation))
        yield f'export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-{request.cores_per_rank}}}"'
        yield from _exports(line)
        yield from _watched(_words(line.argv), request.requeue)
    else:
        yield from _watched(_run(request), request.requeue)
    if request.requeue:
        yield "# Told that its time is up, or preempted, and all ranks stopped well: go on in another allocation."
        yield "preempted() { scontrol show job \"$SLURM_JOB_ID\" | grep -q 'PreemptTime=[0-9]'; }"
        yield 'if [ "$code" -eq 0 ] && { [ -n "$stopping" ] || preempted; }; then scontrol requeue "$SLURM_JOB_ID"; fi'
    yield 'exit "$code"'


def _pbs(request: Request) -> Iterator[str]:
    yield f"-N {request.name}"
    if request.queue:
        yield f"-q {request.queue}"
    if request.account:
        yield f"-A {request.account}"
    chunk = [f"select={request.nodes}", f"ncpus={request.node_cores}", f"mpiprocs={request.ranks_per_node}",
             f"ompthreads={request.threads or request.cores_per_rank}"]
    chunk += [f"mem={request.mebibytes}mb"] if request.memory else []
    chunk += [f"ngpus={request.gpus}"] if request.gpus else []
    yield f"-l {':'.join(chunk)}"
    yield "-l place=scatter"
    yield f"-l walltime={request.walltime}"
    yield f"-r {'y' if request.requeue else 'n'}"
    yield "-j oe"
    if request.log_directory:
        yield f"-o {request.log('')}"


def _pbs_body(request: Request) -> Iterator[str]:
    yield from _watched(_run(request), requeue=False, timer=_ahead(request))
    yield 'exit "$code"'


def _lsf(request: Request) -> Iterator[str]:
    yield f"-J {request.name}"
    if request.queue:
        yield f"-q {request.queue}"
    if request.account:
        yield f"-P {request.account}"
    yield f"-n {request.ranks}"
    yield f'-R "span[ptile={request.ranks_per_node}]"'
    if request.cores_per_rank > 1:
        yield f'-R "affinity[core({request.cores_per_rank})]"'
    if request.memory:
        yield f'-R "rusage[mem={request.mebibytes}MB/host]"'
    if request.gpus:
        yield f'-gpu "num={request.gpus}"'
    minutes = math.ceil(seconds(request.walltime) / 60)
    yield f"-W {minutes // 60:02d}:{minutes % 60:02d}"
    if request.requeue:
        yield f'-r -Q "{AGAIN}"'
    yield f"-o {request.log('%J.out')}"


def _lsf_body(request: Request) -> Iterator[str]:
    # LSF's own warning (-wa) goes to every process of the job: ranks would get it from LSF and from their launcher.
    yield from _watched(_run(request), request.requeue, _ahead(request))
    if request.requeue:
        yield "# Told that its time is up, and all ranks stopped well: LSF runs a job again that ends with this code."
        yield f'if [ "$code" -eq 0 ] && [ -n "$stopping" ]; then exit {AGAIN}; fi'
    yield 'exit "$code"'


def _flux(request: Request) -> Iterator[str]:
    if request.memory:
        raise CommandError("Flux cannot be asked for memory; leave out --memory")
    yield f"--job-name={request.name}"
    if request.queue:
        yield f"--queue={request.queue}"
    if request.account:
        yield f"--setattr=bank={request.account}"
    yield f"--nodes={request.nodes}"
    yield f"--nslots={request.nodes}"
    yield f"--cores-per-slot={request.node_cores}"
    if request.gpus:
        yield f"--gpus-per-slot={request.gpus}"
    yield f"--time-limit={seconds(request.walltime)}s"
    yield f"--output={request.log(request.name + '-{{id}}.out')}"


def _flux_body(request: Request) -> Iterator[str]:
    # Flux signals the tasks of a run, and not the script, ahead of the end of the run's own limit.
    allocation = Allocation("Flux", "", request.nodes, cores=request.node_cores)
    line = _line(request, Starter("flux", Vendor.FLUX, request.pmi, allocation))
    limit = [f"--nodes={request.nodes}", f"--time-limit={seconds(request.walltime)}s"]
    limit += [f"--signal=USR2@{request.warning}s"] if request.warning else []
    yield from _exports(line)
    yield _words((*line.argv[:2], *limit, *line.argv[2:]))


SCHEDULERS = {
    "slurm": Scheduler("#SBATCH", ("sbatch",), _slurm, _slurm_body),
    "pbs": Scheduler("#PBS", ("qsub",), _pbs, _pbs_body, ('cd "$PBS_O_WORKDIR" || exit 1',)),
    "lsf": Scheduler("#BSUB", ("bsub",), _lsf, _lsf_body),
    "flux": Scheduler("#flux:", ("flux", "batch"), _flux, _flux_body),
}


def _line(request: Request, starter: Starter) -> CommandLine:
    """The line that `distgrad run` would use inside the allocation."""
    job = Job(request.ranks, request.program, threads=request.threads or request.cores_per_rank, python=request.python)
    return command_line(job, starter, {})


def _run(request: Request) -> str:
    words = [request.python, "-m", "distgrad", "run", "-n", str(request.ranks)]
    words += ["--launcher", request.launcher] if request.launcher != "auto" else []
    return _words([*words, "--threads", str(request.threads or request.cores_per_rank), *request.program])


def _ahead(request: Request) -> int:
    """After how many seconds a script warns itself, where the scheduler does not; 0: never."""
    return seconds(request.walltime) - request.warning if request.warning else 0


def _watched(command: str, requeue: bool, timer: int = 0) -> Iterator[str]:
    """The command as a child of the script, which passes on what the scheduler says.

    Leaves its exit code in `code`; with `requeue`, `stopping` tells whether the warning came. With a timer
    the script sends the warning to itself, after that many seconds.
    """
    watch = f"trap 'kill \"$!\"' TERM; sleep {timer} & wait \"$!\" && kill -s USR2 $$"
    yield from ("told='' job=''" + (" stopping=''" if requeue else ""),
                'pass_on() { told=yes; [ -z "$job" ] || kill -s USR2 "$job" 2>/dev/null; }',
                *(("trap 'stopping=yes; pass_on' USR2", "trap pass_on TERM") if requeue else
                  ("trap pass_on USR2 TERM",)),
                f"{command} &",
                "job=$!",
                '[ -z "$told" ] || pass_on',
                *((f"({watch}) &", "timer=$!") if timer else ()),
                'while kill -0 "$job" 2>/dev/null; do wait "$job"; done  # a signal ends a wait early',
                'wait "$job"',
                "code=$?",
                *(('kill "$timer" 2>/dev/null',) if timer else ()))


def _exports(line: CommandLine) -> list[str]:
    return ["export " + " ".join(f"{name}={_word(value)}" for name, value in line.variables.items())]


def _words(words: list[str] | tuple[str, ...]) -> str:
    return " ".join(map(_word, words))


def _word(text: str) -> str:
    if text.isprintable():
        return shlex.quote(text)
    escaped = (char if char.isprintable() and char not in "'\\" else f"\\{char}" if char in "'\\"
               else "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape")) for char in text)
    return f"$'{''.join(escaped)}'"
