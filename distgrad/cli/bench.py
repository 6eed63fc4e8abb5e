"""`distgrad bench`: measure on this machine, beside a peer where one is installed.

It reads the words, starts ranks where none were started, and prints; what is measured stands in `distgrad.bench`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from distgrad.bench.record import draw_steps, read, recorded
from distgrad.cli.benchmarks import ALONE, BODIES, LEAST, SIZES, check_device, counts, peers
from distgrad.cli.launcher import Job
from distgrad.cli.registry import CommandError, command
from distgrad.cli.run import start
from distgrad.config import launcher

if TYPE_CHECKING:
    from distgrad.comm import Communicator

__all__ = ["bench"]

_ROUNDS = {"modes": 100, "op": 100, "checkpoint": 5, "ceilings": 10}  # otherwise 30
_ONE_THREAD = ("step", "overlap", "loader", "checkpoint")  # they compute, and a rank computes on one core
_TEXTS = {"modes": "what recording costs, a chain of small operations", "op": "what one small operation costs, and its "
          "backward", "allreduce": "one buffer summed over ranks",
          "update": "mean, norm, clip and Adam", "step": "training steps, in parts",
          "ceilings": "what a device can do at best: copies, and products of matrices",
          "overlap": "how much of an exchange a backward hides",
          "loader": "how long a training step waits for its batch",
          "checkpoint": "what saving a sharded training state costs training"}
_NO_PEER = ("overlap", "loader", "checkpoint")
_ON_THE_HOST = ("checkpoint",)
_NOT_PASSED_ON = ("command", "name", "ranks", "jsonl", "plot")


def _configure(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(dest="name", required=True, metavar="name")
    found = {name: names.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
             for name, text in _TEXTS.items()}
    for name, each in found.items():
        each.add_argument("--rounds", type=int, default=_ROUNDS.get(name, 30), help="(default: %(default)s)")
        each.add_argument("--jsonl", metavar="FILE", help="append the JSON lines to this file too")
        if name not in (*_NO_PEER, "step"):
            each.add_argument("--peer", choices=("torch",), help="measure this one in the same rounds")
        if name not in _ON_THE_HOST:
            each.add_argument("--device", choices=("cpu", "strict", "cuda"), default="cpu", help="where it is "
                              "computed; on cuda, ranks take the devices of their machine in turn (default: cpu)")
        if name in LEAST:
            each.add_argument("-n", "--ranks", default="1,2" if name == "step" else "2", metavar="N,M", help="how many "
                              "ranks to start, one job after the other, unless a launcher did (default: %(default)s)")
        if name in SIZES:
            each.add_argument("--sizes", metavar="A,B", help=f"in {SIZES[name]}")
    found["modes"].add_argument("--length", type=int, default=1000, help="operations in the chain (default: 1000)")
    ceilings, step, overlap = found["ceilings"], found["step"], found["overlap"]
    ceilings.add_argument("--copies", metavar="A,B", help="in bytes")
    ceilings.add_argument("--products", metavar="N,M", help="of n x n matrices")
    step.add_argument("--workload", metavar="A,B", help="which models (default: all)")
    step.add_argument("--size", choices=("small", "large"), default="small", help="of the models: for a core, or to "
                      "fill a GPU (default: small)")
    step.add_argument("--mode", default="replicated", metavar="A,B", help="where the optimizer's state is: replicated, "
                      "sharded or both (default: replicated)")
    step.add_argument("--peer", metavar="A,B", help="measure these in the same rounds: torch, jax (on one rank), both")
    step.add_argument("--compile", action="store_true", help="with --peer torch: measure its compiled modules too")
    step.add_argument("--plot", metavar="FILE", help="draw the steps into this picture")
    overlap.add_argument("--workload", metavar="A,B", help="which models (default: a synthetic one)")
    overlap.add_argument("--megabytes", type=float, help="gradients of the synthetic model (default: 16)")
    overlap.add_argument("--ratio", type=float, help="how long its backward computes, over the exchange (default: 1)")
    overlap.add_argument("--transport", choices=("auto", "nccl", "shared", "mpi"), default="auto", help="nccl: "
                         "from GPU to GPU (default: auto)")
    loader = found["loader"]
    loader.add_argument("--source", metavar="A,B", help="where samples lie: tensors, npy (default: both)")
    loader.add_argument("--workers", metavar="N,M", default="0,2", help="how many read ahead (default: %(default)s)")
    loader.add_argument("--worker", choices=("thread", "process"), default="thread", help="(default: %(default)s)")
    loader.add_argument("--length", type=int, default=64, help="steps in a pass, of which --rounds are measured "
                        "(default: %(default)s)")
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
    if "torch" not in peers(args) and getattr(args, "compile", False):
        raise CommandError("--compile is about torch's modules: it goes with --peer torch")
    body = (ALONE.get(args.name) or BODIES[args.name])(args)
    if args.name not in _ON_THE_HOST:
        check_device(args.device)
    if args.name in ALONE:
        from distgrad.comm import SelfCommunicator

        with _kept(args) as file, recorded(file):
            body(SelfCommunicator())
        return 0
    if launcher() is None:
        ranks = counts(args.ranks, args.name)
        with _kept(args) as file:
            return _start(ranks, args, body, file)
    comm = _world()
    if comm.size < LEAST[args.name]:
        raise CommandError(f"{args.name} is between ranks, and there is only one")
    if comm.rank > 0:
        body(comm)
        return 0
    with _kept(args) as file, recorded(file):
        body(comm)
    return 0


def _start(counts: Sequence[int], args: argparse.Namespace, body: Callable[[Communicator], None],
           file: str | None) -> int:
    """Run on each number of ranks in turn: on one here, on several in a job of their own.

    What computes on the host is pinned, one here as a rank is; on a GPU, libraries have threads that help the host.
    """
    on_gpu = getattr(args, "device", "cpu") == "cuda"
    words = ["-m", "distgrad", "bench", args.name]
    for name, value in vars(args).items():
        if name not in _NOT_PASSED_ON and value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    words += ["--jsonl", file] if file else []
    for ranks in counts:
        if ranks == 1:
            from distgrad.bench.surroundings import one_core

            with nullcontext() if on_gpu else one_core(), recorded(file):
                body(_world())
            continue
        code = start(Job(ranks, tuple(words), threads=1 if args.name in _ONE_THREAD and not on_gpu else None))
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
