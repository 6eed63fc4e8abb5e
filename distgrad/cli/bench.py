"""`distgrad bench`: measure on this machine, beside a peer where one is installed.

It reads the words, starts ranks where none were started, and prints; what is measured stands in `distgrad.bench`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from distgrad.bench import modes, op
from distgrad.bench.clock import show
from distgrad.bench.record import draw_steps, read, recorded
from distgrad.cli.launcher import Job
from distgrad.cli.registry import CommandError, command
from distgrad.cli.run import start
from distgrad.config import launcher

if TYPE_CHECKING:
    from distgrad.comm import Communicator

__all__ = ["bench"]

_SIZES = {"allreduce": "bytes", "update": "parameters"}  # and what their sizes are
_ALONE = ("modes", "op")  # on one rank
_LEAST = {"allreduce": 2, "update": 2, "step": 1, "overlap": 2, "checkpoint": 1}  # ranks
_ROUNDS = {"modes": 100, "op": 100, "checkpoint": 5}  # otherwise 30
_ONE_THREAD = ("step", "overlap", "checkpoint")  # they compute, and a rank computes on one core
_TEXTS = {"modes": "what recording costs, a chain of small operations", "op": "what one small operation costs, and its "
          "backward", "allreduce": "one buffer summed over ranks",
          "update": "mean, norm, clip and Adam", "step": "training steps of small models, in parts",
          "overlap": "how much of an exchange a backward hides",
          "checkpoint": "what saving a sharded training state costs training"}
_NOT_PASSED_ON = ("command", "name", "ranks", "jsonl", "plot")


def _configure(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(dest="name", required=True, metavar="name")
    found = {name: names.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
             for name, text in _TEXTS.items()}
    for name, each in found.items():
        each.add_argument("--rounds", type=int, default=_ROUNDS.get(name, 30), help="(default: %(default)s)")
        each.add_argument("--jsonl", metavar="FILE", help="append the JSON lines to this file too")
        if name not in ("overlap", "checkpoint"):
            each.add_argument("--peer", choices=("torch",), help="measure this one in the same rounds")
        if name in _LEAST:
            each.add_argument("-n", "--ranks", default="1,2" if name == "step" else "2", metavar="N,M", help="how many "
                              "ranks to start, one job after the other, unless a launcher did (default: %(default)s)")
        if name in _SIZES:
            each.add_argument("--sizes", metavar="A,B", help=f"in {_SIZES[name]}")
    found["modes"].add_argument("--length", type=int, default=1000, help="operations in the chain (default: 1000)")
    step, overlap = found["step"], found["overlap"]
    step.add_argument("--workload", metavar="A,B", help="which models (default: all)")
    step.add_argument("--mode", default="replicated", metavar="A,B", help="where the optimizer's state is: replicated, "
                      "sharded or both (default: replicated)")
    step.add_argument("--plot", metavar="FILE", help="draw the steps into this picture")
    overlap.add_argument("--workload", metavar="A,B", help="which models (default: a synthetic one)")
    overlap.add_argument("--megabytes", type=float, help="gradients of the synthetic model (default: 16)")
    overlap.add_argument("--ratio", type=float, help="how long its backward computes, over the exchange (default: 1)")
    overlap.add_argument("--transport", choices=("auto", "shared", "mpi"), default="auto", help="(default: auto)")
    overlap.add_argument("--hook", metavar="NAME", help="measure this comm hook too, such as bf16")
    saved = found["checkpoint"]
    saved.add_argument("--parameters", type=int, default=25_000_000, help="of the model (default: %(default)s)")
    saved.add_argument("--steps", type=int, default=50, help="between two saves (default: %(default)s)")
    saved.add_argument("--folder", help="where a temporary folder is made (default: where the system makes them)")


@command("bench", _configure)
def bench(args: argparse.Namespace) -> int:
    """Measure on this machine: a table and JSON lines.

    Medians of interleaved rounds, with quartiles; the last column is the ratio to the first line. What
    needs several ranks starts them as `distgrad run` does, or runs on those that a launcher started.
    """
    if args.rounds < 1:
        raise CommandError("--rounds must be at least 1")
    peer = getattr(args, "peer", None)
    if peer and importlib.util.find_spec(peer) is None:
        raise CommandError(f"--peer {peer}: it is not installed here")
    if args.name in _ALONE:
        with _kept(args) as file, recorded(file):
            (_modes if args.name == "modes" else _op)(args)
        return 0
    body = _BODIES[args.name](args)
    if launcher() is None:
        counts = _counts(args.ranks, args.name)
        with _kept(args) as file:
            return _start(counts, args, body, file)
    comm = _world()
    if comm.size < _LEAST[args.name]:
        raise CommandError(f"{args.name} is between ranks, and there is only one")
    if comm.rank > 0:
        body(comm)
        return 0
    with _kept(args) as file, recorded(file):
        body(comm)
    return 0


def _start(counts: Sequence[int], args: argparse.Namespace, body: Callable[[Communicator], None],
           file: str | None) -> int:
    """Run on each number of ranks in turn: on one here, pinned as a rank is, on several in a job of their own."""
    words = ["-m", "distgrad", "bench", args.name]
    for name, value in vars(args).items():
        if name not in _NOT_PASSED_ON and value is not None:
            words += [f"--{name}", str(value)]
    words += ["--jsonl", file] if file else []
    for ranks in counts:
        if ranks == 1:
            from distgrad.bench.surroundings import one_core

            with one_core(), recorded(file):
                body(_world())
            continue
        code = start(Job(ranks, tuple(words), threads=1 if args.name in _ONE_THREAD else None))
        if code:
            return code
    return 0


@contextmanager
def _kept(args: argparse.Namespace) -> Iterator[str | None]:
    """The file for JSON lines, if one is wanted or needed; at the end, the picture of what came to it."""
    picture, file, begin = getattr(args, "plot", None), args.jsonl, 0
    with ExitStack() as stack:
        if picture:
            _check_picture(picture)
            if not file:
                file = os.path.join(stack.enter_context(tempfile.TemporaryDirectory(prefix="distgrad-bench-")), "lines")
        if file:
            file = os.path.abspath(file)
            try:
                with open(file, "a") as opened:
                    begin = opened.tell()
            except OSError as error:
                raise CommandError(f"--jsonl {file}: {error.strerror}") from None
        yield file
        if picture and file and (lines := read(file, begin)):
            draw_steps(picture, lines)
            print(f"picture: {picture}")


def _check_picture(path: str) -> None:
    """Find out before hours of measuring that nothing can be drawn."""
    if os.path.isdir(path) or not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        raise CommandError(f"--plot {path}: it is a folder, or its folder is not there or cannot be written to")
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError('--plot draws with matplotlib, which is not installed: pip install "distgrad[examples]"')


def _world() -> Communicator:
    from distgrad.distributed import world

    return world()


# -- what each benchmark's words mean: a function to be called with the ranks' communicator

def _modes(args: argparse.Namespace) -> None:
    if args.length < 2:
        raise CommandError("--length must be at least 2")
    samples = modes.run(args.length, args.rounds, args.peer)
    show(f"modes: one operation of a chain of {args.length}, 10 elements", samples, scale=args.length)


def _op(args: argparse.Namespace) -> None:
    for name, samples in op.run(args.rounds, args.peer):
        show(f"op: {name}, 10 elements (matmul: 3 x 3)", samples, scale=op.repeats())


def _sized(args: argparse.Namespace) -> Callable[[Communicator], None]:
    sizes = _numbers("--sizes", args.sizes)

    def body(comm: Communicator) -> None:
        benchmark = importlib.import_module(f"distgrad.bench.{args.name}")
        for size, samples in benchmark.run(sizes or benchmark.SIZES, args.rounds, args.peer):
            if comm.rank == 0:
                show(f"{args.name}: {size:,} {_SIZES[args.name]}, {comm.size} ranks", samples, size=size,
                     ranks=comm.size)

    return body


def _step(args: argparse.Namespace) -> Callable[[Communicator], None]:
    from distgrad.bench import step
    from distgrad.bench.surroundings import tell
    from distgrad.bench.workloads import WORKLOADS

    workloads = _names("--workload", args.workload, WORKLOADS) or tuple(WORKLOADS)
    chosen = _names("--mode", args.mode, step.MODES)

    def body(comm: Communicator) -> None:
        for number, race in enumerate(step.run(comm, workloads, args.rounds, chosen, args.peer)):
            if comm.rank == 0:
                if number == 0:
                    tell(race.where)
                step.report(race)

    return body


def _overlap(args: argparse.Namespace) -> Callable[[Communicator], None]:
    from distgrad.bench import overlap
    from distgrad.bench.surroundings import tell
    from distgrad.bench.workloads import WORKLOADS

    workloads = _names("--workload", args.workload, WORKLOADS)
    settings = {name: value for name in ("megabytes", "ratio") if (value := getattr(args, name)) is not None}
    for name, value in settings.items():
        if workloads:
            raise CommandError(f"--{name} is of the synthetic model; leave it or --workload out")
        if not 0 < value < float("inf"):
            raise CommandError(f"--{name} {value:g}: give a number above 0")
    if args.hook and args.transport == "shared":
        raise CommandError("--hook is about what is sent: it goes with --transport auto or mpi")
    hook = (args.hook, _hook(args.hook)) if args.hook else None

    def body(comm: Communicator) -> None:
        for number, workload in enumerate(workloads or (overlap.SYNTHETIC,)):
            found = overlap.run(comm, workload, transport=args.transport, hook=hook, rounds=args.rounds, **settings)
            if comm.rank == 0:
                if number == 0:
                    tell(found.where)
                overlap.report(found)

    return body


def _checkpoint(args: argparse.Namespace) -> Callable[[Communicator], None]:
    for name in ("parameters", "steps"):
        if getattr(args, name) < 1:
            raise CommandError(f"--{name} must be at least 1")
    if args.folder and not os.access(args.folder, os.W_OK):
        raise CommandError(f"--folder {args.folder}: it is not there or cannot be written to")

    def body(comm: Communicator) -> None:
        from distgrad.bench import checkpoint
        from distgrad.bench.surroundings import tell
        from distgrad.checkpoint import Checkpointer

        found = checkpoint.run(comm, lambda folder, comm: Checkpointer(folder, keep=1, comm=comm), args.parameters,
                               args.steps, args.folder, args.rounds)
        if comm.rank == 0:
            tell(found.where)
            checkpoint.report(found)

    return body


def _hook(name: str) -> Callable[..., Any]:
    hooks = importlib.import_module("distgrad.distributed.hooks")
    found: Callable[..., Any] | None = getattr(hooks, f"{name}_compress_hook", None)
    if found is None:
        ending = "_compress_hook"
        known = ", ".join(n.removesuffix(ending) for n in hooks.__all__ if n.endswith(ending)) or "none"
        raise CommandError(f"--hook {name}: distgrad.distributed.hooks has no {name}{ending} (there is: {known})")
    return found


_BODIES = {"allreduce": _sized, "update": _sized, "step": _step, "overlap": _overlap,
           "checkpoint": _checkpoint}


# -- words

def _names(option: str, text: str | None, known: Sequence[str] | dict[str, Any]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.split(","))) if text else ()
    for name in found:
        if name not in known:
            raise CommandError(f"{option} {name}: choose among {', '.join(known)}, separated by commas")
    return found


def _numbers(option: str, text: str | None) -> list[int]:
    try:
        found = [int(word) for word in text.split(",")] if text else []
    except ValueError:
        found = [0]
    if any(number < 1 for number in found):
        raise CommandError(f"{option} {text}: give whole numbers above 0, separated by commas")
    return found


def _counts(text: str, name: str) -> list[int]:
    counts = _numbers("-n", text)
    for count in counts:
        if count < _LEAST[name]:
            raise CommandError(f"-n {count}: {name} is between ranks, at least {_LEAST[name]}")
    return counts
