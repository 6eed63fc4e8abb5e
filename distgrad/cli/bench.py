"""`distgrad bench`: measure on this machine, beside a peer where one is installed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from distgrad.bench import modes
from distgrad.bench.clock import show
from distgrad.cli.launcher import Job
from distgrad.cli.registry import CommandError, command
from distgrad.cli.run import start
from distgrad.config import launcher

__all__ = ["bench"]

_ON_RANKS = {"allreduce": "bytes", "update": "parameters"}  # and what their sizes are


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=("modes", *_ON_RANKS), help="modes: what recording costs, a chain of small "
                        "operations; allreduce: one buffer summed over ranks; update: mean, norm, clip and Adam")
    parser.add_argument("--peer", choices=("torch",), help="measure this one in the same rounds")
    parser.add_argument("--rounds", type=int, help="(default: 100 for modes, else 30)")
    parser.add_argument("--length", type=int, default=1000, help="modes: operations in the chain (default: 1000)")
    parser.add_argument("-n", "--ranks", type=int, default=2, metavar="N",
                        help="allreduce, update: how many ranks to start, unless a launcher did (default: 2)")
    parser.add_argument("--sizes", metavar="A,B", help="allreduce: bytes, update: parameters")


@command("bench", _configure)
def bench(args: argparse.Namespace) -> int:
    """Measure on this machine: a table and JSON lines.

    Medians of interleaved rounds, with quartiles; the last column is the ratio to the first line. What
    needs several ranks starts them as `distgrad run` does, or runs on those that a launcher started.
    """
    if args.rounds is None:
        args.rounds = 100 if args.name == "modes" else 30
    if args.rounds < 1 or args.length < 2:
        raise CommandError("--rounds must be at least 1 and --length at least 2")
    if args.peer and importlib.util.find_spec(args.peer) is None:
        raise CommandError(f"--peer {args.peer}: it is not installed here")
    if args.name in _ON_RANKS:
        return _on_ranks(args)
    samples = modes.run(args.length, args.rounds, args.peer)
    show(f"modes: one operation of a chain of {args.length}, 10 elements", samples, scale=args.length)
    return 0


def _on_ranks(args: argparse.Namespace) -> int:
    sizes = _sizes(args.sizes)
    if args.ranks < 2:
        raise CommandError(f"-n {args.ranks}: {args.name} is between ranks, at least 2")
    if launcher() is None:
        words = ["-m", "distgrad", "bench", args.name, "--rounds", str(args.rounds)]
        words += ["--peer", args.peer] if args.peer else []
        words += ["--sizes", args.sizes] if args.sizes else []
        return start(Job(args.ranks, tuple(words)))
    from distgrad.distributed import world

    comm = world()
    if comm.size < 2:
        raise CommandError(f"{args.name} is between ranks, and there is only one")
    benchmark = importlib.import_module(f"distgrad.bench.{args.name}")
    for size, samples in benchmark.run(sizes or benchmark.SIZES, args.rounds, args.peer):
        if comm.rank == 0:
            show(f"{args.name}: {size:,} {_ON_RANKS[args.name]}, {comm.size} ranks", samples, size=size,
                 ranks=comm.size)
    return 0


def _sizes(text: str | None) -> list[int]:
    try:
        found = [int(word) for word in text.split(",")] if text else []
    except ValueError:
        found = [0]
    if any(size < 1 for size in found):
        raise CommandError(f"--sizes {text}: give whole numbers above 0, separated by commas")
    return found
