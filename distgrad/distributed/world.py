"""The world of ranks that this code runs in: MPI's, a simulated one, or a world of one.

It is a context variable, so threads that a simulated rank starts in its context see that rank's
world. Nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from ..backend.random import Generator, use_generator
from ..comm import Communicator, run_ranks, world_communicator
from ..comm import abort as _abort
from ..comm import mpi as _mpi
from ..data.distributed import use_world
from ..errors import current_rank

__all__ = ["as_communicator", "get_rank", "get_world_size", "simulate", "world"]

T = TypeVar("T")
_world: ContextVar[Communicator | None] = ContextVar("distgrad_world", default=None)


def world() -> Communicator:
    """All ranks that were started together.

    Under mpirun, srun and the like, or when mpi4py is loaded already, that is MPI's world, which is
    started if need be; an exception that ends a rank then ends the job. Inside `simulate` it is the
    simulated world. Otherwise it is a world of one, which needs no MPI library.

    Raises:
        RuntimeError: the launcher started more tasks than MPI sees.
    """
    found = _world.get()
    if found is None:
        found = world_communicator()
        _abort.install(found)
        if found.size > 1:
            current_rank.set(found.rank)
    return found


def get_rank() -> int:
    """This rank's number in the world."""
    return world().rank


def get_world_size() -> int:
    """How many ranks the world has."""
    return world().size


def as_communicator(comm: Any) -> Communicator:
    """A Communicator from None (the world), a Communicator, or an mpi4py intracommunicator.

    Raises:
        TypeError, ValueError: an intercommunicator, a null or freed communicator, or none at all.
    """
    if comm is None:
        return world()
    return comm if isinstance(comm, Communicator) else _mpi.wrap(comm)


def simulate(ranks: int, nodes: Sequence[int] | None = None) -> Callable[[Callable[[int], T]], list[T]]:
    """Run a function on simulated ranks, threads of this process: `simulate(4)(train)`.

    Each rank has its own world, grad modes and random stream; BLAS runs on one thread. Collectives
    are checked against each other, and a rank that waits for one which has ended raises at once.

    Args:
        ranks: how many.
        nodes: how many of them pretend to be on the first machine, the second, and so on, such as [2, 2];
            default all on one.

    Returns:
        A function that takes `fn`, runs `fn(rank)` on every rank, and returns the results in rank
        order. The first exception of a rank is raised, with a note naming it.
    """

    def run(fn: Callable[[int], T]) -> list[T]:
        def body(comm: Communicator) -> T:
            _world.set(comm)
            current_rank.set(comm.rank if ranks > 1 else None)
            use_generator(Generator())
            return fn(comm.rank)

        with threadpool_limits(1):
            return run_ranks(ranks, body, nodes)

    return run


use_world(lambda: (get_world_size(), get_rank()))  # for a DistributedSampler that was not told
