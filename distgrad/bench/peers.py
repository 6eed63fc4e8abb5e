"""Who is measured beside this package: peers are loaded here when they are asked for, on one thread each.

A peer makes a contestant for a workload from the same weights and batches, or says why it cannot take part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..comm import Communicator
from ..config import preset
from .surroundings import threads
from .torch_workloads import adam, compiled, library, replicated, torch_peer, twin
from .trainer import Trainer
from .workloads import Batch, Workload

__all__ = ["PEERS", "Contestant", "LeftOut", "Peer", "invited"]

State = Mapping[str, np.ndarray]


class Contestant(Protocol):
    """Who trains, one step a call, and notes a row of COLUMNS for each."""

    name: str
    notes: list[list[float]]

    def step(self) -> None: ...


class LeftOut(Exception):
    """A peer that cannot be measured on this workload; its text says why."""


@dataclass(frozen=True)
class Peer:
    """A library beside this one.

    Attributes:
        where: its version and threads, to be said with every result.
        contestant: (workload, state, batches, learning rate) -> who trains. Collective; may raise LeftOut.
    """

    name: str
    where: Mapping[str, str]
    contestant: Callable[[Workload, State, Sequence[Batch], float], Contestant]


@contextmanager
def invited(comm: Communicator, names: Sequence[str], compile: bool = False) -> Iterator[list[Peer]]:
    """Load the peers of these names, each on one thread until the end. Collective.

    Args:
        names: some of PEERS.
        compile: torch takes part twice, the second time with its module compiled.
    """
    with ExitStack() as stack:
        peers = []
        for name in names:
            peers += _LOADED[name](comm, stack, compile)
        yield peers


# -- torch

def _torch(comm: Communicator, stack: ExitStack, compile: bool) -> list[Peer]:
    torch = stack.enter_context(torch_peer(comm))
    where = {"torch": f"{torch.__version__}, {threads(torch.get_num_threads())}"}
    return [Peer(name, where, partial(_torch_trainer, torch, comm, name))
            for name in ("torch", "torch compiled")[:1 + compile]]


def _torch_trainer(torch: Any, comm: Communicator, name: str, workload: Workload, state: State,
                   batches: Sequence[Batch], rate: float) -> Contestant:
    module = twin(torch, workload, state)
    if name == "torch compiled":
        try:
            module, failure = compiled(torch, module, *batches[0]), ""
        except Exception as error:  # of a tracer, a code generator, a compiler of C++ that is not there
            failure = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
        failures = [text.decode() for text in comm.allgather_bytes(failure.encode())]
        if any(failures):
            raise LeftOut(f"does not compile here, {next(filter(None, failures))}")
    module = module if comm.size == 1 else replicated(torch, module)
    return Trainer(name, library(torch), module, adam(torch, module.parameters(), rate), batches)


# -- JAX

def _jax(comm: Communicator, stack: ExitStack, compile: bool) -> list[Peer]:
    if comm.size > 1:
        return [Peer("jax", {}, _on_one_rank)]
    preset("JAX_PLATFORMS", "cpu")
    flags = preset("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    from . import jax_trainer

    return [Peer("jax", {"jax": f"{jax_trainer.in_this_thread()}, XLA_FLAGS={flags}"}, jax_trainer.contestant)]


def _on_one_rank(*_: Any) -> Contestant:
    raise LeftOut("is measured on one rank only")


_LOADED: Mapping[str, Callable[[Communicator, ExitStack, bool], list[Peer]]] = {"torch": _torch, "jax": _jax}
PEERS = tuple(_LOADED)
