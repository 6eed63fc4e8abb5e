"""Who is measured beside this package: peers are loaded here when they are asked for, on its device or one thread.

A peer makes a contestant for a workload from the same weights and batches, or says why it cannot take part.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..comm import Communicator
from ..config import preset
from .place import HOST, DeviceClock, Place
from .surroundings import threads
from .torch_ranks import LeftOut, torch_beside
from .torch_workloads import adam, compiled, library, replicated, twin
from .trainer import Trainer
from .workloads import Batch, Workload

__all__ = ["PEERS", "Contestant", "Peer", "invited"]

State = Mapping[str, np.ndarray]


class Contestant(Protocol):
    """Who trains, one step a call, and notes a row of COLUMNS for each."""

    name: str
    notes: list[list[float]]

    def step(self) -> None: ...


@dataclass(frozen=True)
class Peer:
    """A library beside this one.

    Attributes:
        where: its version and threads, to be said with every result.
        contestant: (workload, state, batches, learning rate) -> who trains. Collective; may raise LeftOut.
        kept: bytes that it has of a device.
        release: gives those that nothing holds any more back to the device.
    """

    name: str
    where: Mapping[str, str]
    contestant: Callable[[Workload, State, Sequence[Batch], float], Contestant]
    kept: Callable[[], int] = lambda: 0
    release: Callable[[], object] = lambda: None


@contextmanager
def invited(comm: Communicator, names: Sequence[str], place: Place, compile: bool = False) -> Iterator[list[Peer]]:
    """Load the peers of these names, each on one thread until the end. Collective.

    Args:
        names: some of PEERS.
        place: where they compute, as far as they can.
        compile: torch takes part twice, the second time with its module compiled.
    """
    with ExitStack() as stack:
        peers = []
        for name in names:
            peers += _LOADED[name](comm, stack, place, compile)
        yield peers


# -- torch

def _torch(comm: Communicator, stack: ExitStack, place: Place, compile: bool) -> list[Peer]:
    try:
        torch = stack.enter_context(torch_beside(comm, place))
    except LeftOut as why:
        return [_absent("torch", str(why))]
    where = {"torch": f"{torch.__version__}, {threads(torch.get_num_threads())}"}
    if place.is_gpu:
        where["torch"] += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return [Peer(name, where, partial(_torch_trainer, torch, comm, place, name),
                 torch.cuda.memory_reserved, partial(_empty, torch))
            for name in ("torch", "torch compiled")[:1 + compile]]


def _torch_trainer(torch: Any, comm: Communicator, place: Place, name: str, workload: Workload, state: State,
                   batches: Sequence[Batch], rate: float) -> Contestant:
    there = library(torch, place.peers)
    module = twin(torch, workload, state, place.peers)
    if name == "torch compiled":
        try:
            module, failure = compiled(torch, module, *map(there.from_numpy, batches[0])), ""
        except Exception as error:  # of a tracer, a code generator, a compiler of C++ that is not there
            failure = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
        failures = [text.decode() for text in comm.allgather_bytes(failure.encode())]
        if any(failures):
            raise LeftOut(f"does not compile here, {next(filter(None, failures))}")
    module = module if comm.size == 1 else replicated(torch, module)
    return Trainer(name, there, module, adam(torch, module.parameters(), rate), batches,
                   clock=DeviceClock(torch.cuda) if place.is_gpu else HOST)


def _empty(torch: Any) -> None:
    gc.collect()
    torch.cuda.empty_cache()


# -- JAX

def _jax(comm: Communicator, stack: ExitStack, place: Place, compile: bool) -> list[Peer]:
    if comm.size > 1 or place.is_gpu:
        return [_absent("jax", "is measured on one rank only" if comm.size > 1 else "is measured on the host only")]
    preset("JAX_PLATFORMS", "cpu")
    flags = preset("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    from . import jax_trainer

    return [Peer("jax", {"jax": f"{jax_trainer.in_this_thread()}, XLA_FLAGS={flags}"}, jax_trainer.contestant)]


# -- who could not come

def _absent(name: str, why: str) -> Peer:
    def contestant(*_: Any) -> Contestant:
        raise LeftOut(why)

    return Peer(name, {}, contestant)


_LOADED: Mapping[str, Callable[[Communicator, ExitStack, Place, bool], list[Peer]]] = {"torch": _torch, "jax": _jax}
PEERS = tuple(_LOADED)
