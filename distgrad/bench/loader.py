"""How long a training step waits for its batch: passes of an MLP over a DataLoader, from memory and from files.

waiting share = time in `next(batches)`, the start of a pass and of its workers included, over time of the pass. The
contestants take turns by whole passes: within a pass, workers have only its own steps to read ahead in. On a device,
waiting is also what the host is kept by the batch's copy; for a GPU, from ordinary memory and from pinned memory.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .._tensor.creation import from_numpy, manual_seed
from ..comm import Communicator
from ..data import DataLoader, DistributedSampler, MemmapDataset, StackDataset, TensorDataset
from ..distributed import DataParallel
from ..nn.functional import cross_entropy
from ..nn.utils import clip_grad_norm_
from ..optim import Adam
from .clock import Sample, show, summarize
from .place import HERE, Place
from .surroundings import surroundings
from .workloads import OURS, WORKLOADS

__all__ = ["SOURCES", "Fed", "report", "run"]

SOURCES = ("tensors", "npy")
BATCH = 64   # samples a rank and step
_WARMUP = 1  # passes of each contestant


@dataclass(frozen=True)
class Fed:
    """What was measured.

    Attributes:
        steps: a step of each contestant, of the rank whose pass took longest, in microseconds.
        waiting: what of it was waiting for the batch.
        shares: contestant -> waiting over step, the median over the passes, of the rank that waited most.
    """

    ranks: int
    length: int
    steps: list[Sample]
    waiting: list[Sample]
    shares: dict[str, float]
    where: dict[str, str]


class _Trainer:
    """A model that is trained by passes over loaders."""

    def __init__(self, comm: Communicator, place: Place) -> None:
        manual_seed(0)
        self._place = place
        self.model = DataParallel(place.to(WORKLOADS["mlp"].build(OURS)), comm)
        self._parameters = list(self.model.parameters())
        self._optimizer = Adam(self._parameters, lr=1e-4)

    def train(self, loader: DataLoader) -> tuple[float, float, int]:
        """One pass; seconds, seconds of them that were waiting, and steps."""
        clock, device = time.perf_counter, self._place.device
        waiting, steps, begin = 0.0, 0, clock()
        asked = begin
        for x, y in loader:
            if device != "cpu":
                x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            waiting += clock() - asked
            self._optimizer.zero_grad()
            cross_entropy(self.model(x), y).backward()
            clip_grad_norm_(self._parameters, 1.0)
            self._optimizer.step()
            steps += 1
            asked = clock()
        waiting += clock() - asked
        self._place.clock.synchronize()
        return clock() - begin, waiting, steps


def run(comm: Communicator, sources: Sequence[str] = SOURCES, workers: Sequence[int] = (0, 2),
        worker: str = "thread", length: int = 64, rounds: int = 30, place: Place = HERE) -> Fed:
    """Measure passes of `length` steps over each source with each number of workers, on all ranks. Collective.

    Args:
        sources: some of SOURCES; rank 0 writes the files before, into its machine's folder for temporary files,
            so that they lie in the system's cache.
        worker: 'thread' or 'process', as for DataLoader.
        place: where the model lies; on a GPU each loader comes twice, the second time with `pin_memory`.

    Raises:
        FileNotFoundError: a rank does not see the files, being on another machine.
    """
    with threadpool_limits(1), _data(comm, sources, length * BATCH * comm.size) as datasets:
        trainer = _Trainer(comm, place)
        loaders = {}
        for (source, data), count, pinned in product(datasets.items(), workers, (False, True)):
            if pinned and not place.is_gpu:
                continue
            name = f"{source}, {f'{count} x {worker}' if count else 'no workers'}{', pinned' if pinned else ''}"
            loaders[name] = DataLoader(data, BATCH, sampler=DistributedSampler(data, comm.size, comm.rank),
                                       num_workers=count, worker=worker, pin_memory=pinned)
        times = []
        for _ in range(_WARMUP + rounds):
            for loader in loaders.values():
                comm.barrier()
                seconds, waiting, steps = trainer.train(loader)
                times.append((seconds * 1e6 / steps, waiting * 1e6 / steps))
        trainer.model.close()
        mine = np.array(times[_WARMUP * len(loaders):]).reshape(rounds, len(loaders), 2)
        everyone = np.empty((comm.size, *mine.shape))  # (rank, pass, contestant, step or waiting)
        comm.allgather(mine, everyone)
        return _judged(everyone, list(loaders), length, {**surroundings(comm), **place.where})


def _judged(times: np.ndarray, names: list[str], length: int, where: dict[str, str]) -> Fed:
    slowest = times[..., 0].argmax(0)[None, :, :, None]
    step, waiting = np.moveaxis(np.take_along_axis(times, slowest, 0)[0], -1, 0)  # (pass, contestant)
    shares = np.median(times[..., 1] / times[..., 0], axis=1).max(0)
    return Fed(len(times), length, summarize(dict(zip(names, step.T.tolist(), strict=True))),
               summarize(dict(zip(names, waiting.T.tolist(), strict=True))),
               dict(zip(names, shares.tolist(), strict=True)), where)


@contextmanager
def _data(comm: Communicator, sources: Sequence[str], samples: int) -> Iterator[dict[str, Any]]:
    """The same noise and classes from each source; files end with the measurement."""
    stream = np.random.default_rng(0)
    x, y = stream.standard_normal((samples, 784), "float32"), stream.integers(10, size=samples)
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        for source in sources:
            if source == "tensors":
                found[source] = TensorDataset(from_numpy(x), from_numpy(y))
                continue
            folder = ""
            if comm.rank == 0:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="distgrad-bench-"))
                np.save(os.path.join(folder, "x.npy"), x)
                np.save(os.path.join(folder, "y.npy"), y)
            folder = comm.broadcast_bytes(folder.encode()).decode()
            found[source] = StackDataset(*[MemmapDataset(os.path.join(folder, f"{name}.npy")) for name in "xy"])
        yield found
        comm.barrier()  # nobody reads any more


def report(fed: Fed) -> None:
    """Print tables, JSON lines, and the share of a step that is waiting."""
    title = f"loader: mlp, {fed.ranks} rank{'s' * (fed.ranks > 1)}"
    print(f"{title}: {WORKLOADS['mlp'].text.partition(',')[0]}, batch {BATCH} a rank, passes of {fed.length} steps")
    facts = {"workload": "mlp", "ranks": fed.ranks, "length": fed.length, "shares": fed.shares, **fed.where}
    show(f"{title}: step", fed.steps, scale=1000, unit="ms", part="step", **facts)
    show(f"{title}: waiting", fed.waiting, part="waiting", **facts)
    for name, share in fed.shares.items():
        print(f"  waiting, {name}: {share:.2%} of the step", flush=True)
