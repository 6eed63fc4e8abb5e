"""What a checkpoint costs training: stretches of steps without a save, with one beside training, with one in between.

A stretch begins with its save, and ends when that is complete. Whoever starts this hands in what saves: this module
knows training steps, and not how states become files.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .._tensor.creation import manual_seed
from ..comm import Communicator
from ..distributed import DataParallel, ZeroRedundancyOptimizer
from ..nn.utils import clip_grad_norm_
from ..optim import Adam
from .clock import Sample, show
from .overlap import synthetic
from .ranks import slowest
from .surroundings import surroundings
from .workloads import OURS

__all__ = ["Cost", "report", "run"]

_SAMPLES = 64  # rows that each rank trains on in a step


@dataclass(frozen=True)
class Cost:
    """What was measured.

    Attributes:
        nbytes: of the state, on all ranks together: parameters and Adam's two arrays.
        steps: in a stretch.
        samples: 'no save', 'asynchronous save', 'save', in microseconds for a stretch.
        blocked: milliseconds for which an asynchronous save kept training from going on; the median, on rank 0.
    """

    ranks: int
    parameters: int
    nbytes: int
    steps: int
    samples: list[Sample]
    blocked: float
    where: dict[str, str]

    def share(self, name: str) -> float:
        """By how much a stretch takes longer than without a save."""
        took = {sample.name: sample.median for sample in self.samples}
        return took[name] / took["no save"] - 1


class _Training:
    """A sharded model of so many parameters, and one batch."""

    def __init__(self, comm: Communicator, parameters: int) -> None:
        manual_seed(0)
        workload = synthetic(parameters * 4 / 2**20, _SAMPLES)
        self.model = DataParallel(workload.build(OURS), comm)
        self.optimizer = ZeroRedundancyOptimizer(self.model.parameters(), Adam, lr=1e-4)
        self.state = {"model": self.model, "optimizer": self.optimizer}
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self._x, self._y = map(OURS.from_numpy, workload.batch(np.random.default_rng([0, comm.rank])))

    def run(self, steps: int) -> None:
        """Train, on the same batch again and again."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            OURS.functional.cross_entropy(self.model(self._x), self._y).backward()
            clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()


def run(comm: Communicator, checkpointer: Callable[[str, Communicator], Any], parameters: int = 25_000_000,
        steps: int = 50, folder: str | None = None, rounds: int = 5) -> Cost:
    """Time stretches of training steps on all ranks of `comm`. Collective.

    Args:
        checkpointer: (folder, comm) -> an object with `save(step, state, asynchronous=...)`, `wait()`, `close()`.
        parameters: about how many; float32.
        steps: in a stretch, to which one save belongs.
        folder: in which a temporary one is made; it decides which disk is measured.
    """
    made = tempfile.mkdtemp(prefix="distgrad-bench-", dir=folder) if comm.rank == 0 else ""
    made = comm.broadcast_bytes(made.encode()).decode()
    training = _Training(comm, parameters)
    checkpoints = checkpointer(made, comm)
    blocked: list[float] = []

    def saving(asynchronous: bool) -> None:
        begin = time.perf_counter()
        checkpoints.save(0, training.state, asynchronous=asynchronous)
        if asynchronous:
            blocked.append((time.perf_counter() - begin) * 1000)
        training.run(steps)
        checkpoints.wait()

    try:
        with threadpool_limits(1):
            samples = slowest(comm, {"no save": lambda: training.run(steps), "asynchronous save": lambda: saving(True),
                                     "save": lambda: saving(False)}, rounds, warmup=1, lead=0)
    finally:
        checkpoints.close()
        training.model.close()
        if comm.rank == 0:
            shutil.rmtree(made, ignore_errors=True)
    return Cost(comm.size, training.parameters, training.parameters * 12, steps, samples,
                statistics.median(blocked[1:]), surroundings(comm))


def report(cost: Cost) -> None:
    """Print a table, JSON lines, and what one save costs."""
    title = f"checkpoint: {cost.parameters:,} parameters, {cost.ranks} rank{'s' * (cost.ranks > 1)}"
    shares = {sample.name: cost.share(sample.name) for sample in cost.samples[1:]}
    print(f"{title}: {cost.nbytes / 1e6:,.0f} MB of sharded state, one save in {cost.steps} steps of "
          f"{cost.samples[0].median / cost.steps / 1000:.1f} ms")
    show(title, cost.samples, scale=1000, unit="ms", ranks=cost.ranks, parameters=cost.parameters, bytes=cost.nbytes,
         steps=cost.steps, shares=shares, blocked_ms=cost.blocked, **cost.where)
    for name, share in shares.items():
        print(f"  {name}: {share:.1%} of training, {share * cost.samples[0].median / 1000:.0f} ms each")
    print(f"  training stands still for {cost.blocked:.0f} ms of an asynchronous one", flush=True)
