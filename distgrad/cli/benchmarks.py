"""What the words of `distgrad bench NAME` mean: each becomes a function that is called with the ranks' communicator.

It checks words and says which are wrong; what is measured stands in `distgrad.bench`, and who starts ranks in `bench`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from distgrad.cli.registry import CommandError

if TYPE_CHECKING:
    from distgrad.bench.place import Place
    from distgrad.comm import Communicator

__all__ = ["ALONE", "BODIES", "LEAST", "SIZES", "check_device", "counts", "peers"]

SIZES = {"allreduce": "bytes", "update": "parameters"}  # and what their sizes are
LEAST = {"allreduce": 2, "update": 1, "step": 1, "overlap": 2, "loader": 1, "checkpoint": 1}  # ranks

Body = Callable[["Communicator"], None]


def check_device(device: str) -> None:
    """Say what is missing for a device before anything is started.

    Raises:
        CommandError: there is none.
    """
    from distgrad import backend

    try:
        backend.get(device)
    except RuntimeError as error:
        raise CommandError(f"--device {device}: {error}") from None


def _place(comm: Communicator, args: argparse.Namespace) -> Place:
    from distgrad.bench.place import take

    return take(comm, args.device)


def _modes(args: argparse.Namespace) -> Body:
    if args.length < 2:
        raise CommandError("--length must be at least 2")

    def body(comm: Communicator) -> None:
        from distgrad.bench import clock, modes

        place = _place(comm, args)
        samples = modes.run(args.length, args.rounds, args.peer, place)
        clock.show(f"modes: one operation of a chain of {args.length}, 10 elements", samples, scale=args.length,
                   **place.where)

    return body


def _op(args: argparse.Namespace) -> Body:
    def body(comm: Communicator) -> None:
        from distgrad.bench import clock, op

        place = _place(comm, args)
        for name, samples in op.run(args.rounds, args.peer, place):
            clock.show(f"op: {name}, 10 elements (matmul: 3 x 3)", samples, scale=op.repeats(), **place.where)

    return body


def _ceilings(args: argparse.Namespace) -> Body:
    copies, products = _numbers("--copies", args.copies, least=4), _numbers("--products", args.products)

    def body(comm: Communicator) -> None:
        from distgrad.bench import ceilings
        from distgrad.bench.surroundings import surroundings, tell

        place = _place(comm, args)
        where = {**surroundings(comm), **place.where}
        tell(where)
        for found in ceilings.run(place, args.rounds, args.peer, copies, products):
            ceilings.report(found, where)

    return body


def _sized(args: argparse.Namespace) -> Body:
    sizes = _numbers("--sizes", args.sizes)

    def body(comm: Communicator) -> None:
        from distgrad.bench.clock import show

        benchmark = importlib.import_module(f"distgrad.bench.{args.name}")
        place = _place(comm, args)
        ranks = f"{comm.size} rank{'s' * (comm.size > 1)}"
        for size, samples in benchmark.run(sizes or benchmark.SIZES, args.rounds, args.peer, place):
            if comm.rank == 0:
                show(f"{args.name}: {size:,} {SIZES[args.name]}, {ranks}", samples, size=size, ranks=comm.size,
                     **place.where)

    return body


def _report_each(comm: Communicator, results: Iterable[Any], report: Callable[[Any], None]) -> None:
    """Measure all, on every rank; rank 0 tells where it is, once, and reports each as it comes."""
    from distgrad.bench.surroundings import tell

    for number, found in enumerate(results):
        if comm.rank == 0:
            if number == 0:
                tell(found.where)
            report(found)


def _step(args: argparse.Namespace) -> Body:
    from distgrad.bench import step
    from distgrad.bench.workloads import WORKLOADS

    workloads = _names("--workload", args.workload, WORKLOADS) or tuple(WORKLOADS)
    chosen = _names("--mode", args.mode, step.MODES)
    guests = peers(args)
    if "jax" in guests and (args.device == "cuda" or args.size != "small"):
        raise CommandError("--peer jax is measured on the host, with the workloads of --size small")

    def body(comm: Communicator) -> None:
        races = step.run(comm, workloads, args.rounds, chosen, guests, args.compile, _place(comm, args), args.size)
        _report_each(comm, races, step.report)

    return body


def _overlap(args: argparse.Namespace) -> Body:
    from distgrad.bench import overlap
    from distgrad.bench.workloads import WORKLOADS

    workloads = _names("--workload", args.workload, WORKLOADS)
    settings = {name: value for name in ("megabytes", "ratio") if (value := getattr(args, name)) is not None}
    for name, value in settings.items():
        if workloads:
            raise CommandError(f"--{name} is of the synthetic model; leave it or --workload out")
        if not 0 < value < float("inf"):
            raise CommandError(f"--{name} {value:g}: give a number above 0")
    if args.hook and args.transport in ("shared", "nccl"):
        raise CommandError("--hook is about what is sent: it goes with --transport auto or mpi")
    if args.transport == "nccl" and args.device != "cuda":
        raise CommandError("--transport nccl is between GPUs: it goes with --device cuda")
    hook = (args.hook, _hook(args.hook)) if args.hook else None

    def body(comm: Communicator) -> None:
        place = _place(comm, args)
        _report_each(comm, (overlap.run(comm, workload, transport=args.transport, hook=hook, rounds=args.rounds,
                                        place=place, **settings) for workload in workloads or (overlap.SYNTHETIC,)),
                     overlap.report)

    return body


def _checkpoint(args: argparse.Namespace) -> Body:
    for name in ("parameters", "steps"):
        if getattr(args, name) < 1:
            raise CommandError(f"--{name} must be at least 1")
    if args.folder and not os.access(args.folder, os.W_OK):
        raise CommandError(f"--folder {args.folder}: it is not there or cannot be written to")

    def body(comm: Communicator) -> None:
        from distgrad.bench import checkpoint
        from distgrad.checkpoint import Checkpointer

        found = checkpoint.run(comm, lambda folder, comm: Checkpointer(folder, keep=1, comm=comm), args.parameters,
                               args.steps, args.folder, args.rounds)
        _report_each(comm, [found], checkpoint.report)

    return body


def _hook(name: str) -> Callable[..., Any]:
    hooks = importlib.import_module("distgrad.distributed.hooks")
    found: Callable[..., Any] | None = getattr(hooks, f"{name}_compress_hook", None)
    if found is None:
        ending = "_compress_hook"
        known = ", ".join(n.removesuffix(ending) for n in hooks.__all__ if n.endswith(ending)) or "none"
        raise CommandError(f"--hook {name}: distgrad.distributed.hooks has no {name}{ending} (there is: {known})")
    return found


def _loader(args: argparse.Namespace) -> Body:
    from distgrad.bench import loader

    sources = _names("--source", args.source, loader.SOURCES) or loader.SOURCES
    workers = _numbers("--workers", args.workers, least=0)
    if args.length < 1:
        raise CommandError("--length must be at least 1")

    def body(comm: Communicator) -> None:
        fed = loader.run(comm, sources, workers, args.worker, args.length, args.rounds, _place(comm, args))
        _report_each(comm, [fed], loader.report)

    return body


ALONE = {"modes": _modes, "op": _op, "ceilings": _ceilings}  # on one rank
BODIES = {"allreduce": _sized, "update": _sized, "step": _step, "overlap": _overlap, "loader": _loader,
          "checkpoint": _checkpoint}


# -- words

def _names(option: str, text: str | None, known: Sequence[str] | dict[str, Any]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.split(","))) if text else ()
    for name in found:
        if name not in known:
            raise CommandError(f"{option} {name}: choose among {', '.join(known)}, separated by commas")
    return found


def peers(args: argparse.Namespace) -> tuple[str, ...]:
    """The libraries to measure beside, all of them installed."""
    from distgrad.bench.peers import PEERS

    found = _names("--peer", getattr(args, "peer", None), PEERS)
    for peer in found:
        if importlib.util.find_spec(peer) is None:
            raise CommandError(f"--peer {peer}: it is not installed here")
    return found


def _numbers(option: str, text: str | None, least: int = 1) -> list[int]:
    try:
        found = [int(word) for word in text.split(",")] if text else []
    except ValueError:
        found = [least - 1]
    if any(number < least for number in found):
        raise CommandError(f"{option} {text}: give whole numbers above {least - 1}, separated by commas")
    return found


def counts(text: str, name: str) -> list[int]:
    counts = _numbers("-n", text)
    for count in counts:
        if count < LEAST[name]:
            raise CommandError(f"-n {count}: {name} is between ranks, at least {LEAST[name]}")
    return counts
