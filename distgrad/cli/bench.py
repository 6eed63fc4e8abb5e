"""`distgrad bench`: measure on this machine, beside a peer where one is installed."""

from __future__ import annotations

import argparse
import importlib.util

from distgrad.bench import modes
from distgrad.bench.clock import show
from distgrad.cli.registry import CommandError, command

__all__ = ["bench"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=("modes",), help="modes: what recording costs, a chain of small operations")
    parser.add_argument("--peer", choices=("torch",), help="measure this one in the same rounds")
    parser.add_argument("--rounds", type=int, default=100, help="(default: 100)")
    parser.add_argument("--length", type=int, default=1000, help="operations in the chain (default: 1000)")


@command("bench", _configure)
def bench(args: argparse.Namespace) -> int:
    """Measure on this machine: a table and JSON lines.

    Medians of interleaved rounds, with quartiles; the last column is the ratio to the first line.
    """
    if args.rounds < 1 or args.length < 2:
        raise CommandError("--rounds must be at least 1 and --length at least 2")
    if args.peer and importlib.util.find_spec(args.peer) is None:
        raise CommandError(f"--peer {args.peer}: it is not installed here")
    samples = modes.run(args.length, args.rounds, args.peer)
    show(f"modes: one operation of a chain of {args.length}, 10 elements", samples, scale=args.length)
    return 0
