"""Whole training steps, timed in parts, beside its peers' on the same numbers, on the host or on a device.

    workloads -> trainers (this package's, its peers'), step by step in turn -> times of the slowest rank

Every contestant starts from the same weights and sees the same batches, so that their losses can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .._tensor.creation import manual_seed
from ..comm import Communicator
from ..distributed import DataParallel, ZeroRedundancyOptimizer
from ..optim import Adam
from .ceilings import best_product
from .clock import Sample, measure, show, summarize
from .peers import Contestant, Peer, invited
from .place import HERE, Place
from .surroundings import surroundings
from .torch_ranks import LeftOut
from .trainer import COLUMNS, PARTS, Trainer, Waiting
from .workloads import SIZES, WORKLOADS, Batch, Workload

__all__ = ["MODES", "Race", "report", "run"]

MODES = ("replicated", "sharded")  # where the optimizer's state is: whole on every rank, or each rank's share
# torch adds the squares of float32 gradients in float32: the norm of mlp_wide is off by 1e-4, and a larger rate makes
# that visible in the losses within ten steps.
RATE = 3e-4
_BATCHES = 32  # different ones; more steps than that see them again
_BATCH_BYTES = 256 << 20  # of all of them, unless that is less than two
_WARMUP = 5    # the first steps look for memory, compile, and tell torch's reducer the order of gradients
_LEAD = 2      # steps before each that is timed: nobody trains with another library's data in the caches


@dataclass(frozen=True)
class Race:
    """What came of one workload; by contestant's name where it is a dictionary.

    Attributes:
        parts: the samples of each of PARTS, in microseconds, of the rank that took longest in each step.
        losses: of rank 0, at every step.
        differences: the largest relative difference of a loss from the first contestant's, on any rank.
        faults: minor page faults in a step, the median; of the rank with most of them.
        clipped: in how many of the measured steps the norm was above 1.
        left_out: the peers that could not take part, and why.
        kept: bytes that each library had of the device in the end, its cache included; on rank 0, of a GPU.
        ceiling: how the device multiplies float32 matrices, and by how many TFLOP/s at best; None of the host.
    """

    workload: Workload
    ranks: int
    rounds: int
    parameters: int
    parts: dict[str, list[Sample]]
    losses: dict[str, list[float]]
    differences: dict[str, float]
    faults: dict[str, float]
    clipped: dict[str, int]
    left_out: dict[str, str]
    where: dict[str, str]
    kept: dict[str, int] = field(default_factory=dict)
    ceiling: tuple[str, float] | None = None

    def rates(self) -> dict[str, float]:
        """By contestant, what its products come to in TFLOP/s over the whole step."""
        return {sample.name: self.workload.flops / sample.median / 1e6 for sample in self.parts["total"]}


def run(comm: Communicator, workloads: Sequence[str] = tuple(WORKLOADS), rounds: int = 30,
        modes: Sequence[str] = ("replicated",), peers: Sequence[str] = (), compile: bool = False,
        place: Place = HERE, size: str = "small") -> Iterator[Race]:
    """Time training steps on all ranks of `comm`, one workload after the other. Collective.

    Args:
        workloads: names in WORKLOADS.
        modes: some of MODES, a contestant each.
        peers: 'torch' adds its eager mode: DistributedDataParallel over gloo where there are several ranks,
            the fused Adam; over NCCL where each rank has a GPU. 'jax' adds a step that is jitted as a whole, on one
            rank of the host.
        compile: torch takes part a second time, its module compiled.
        place: where all of it is computed; batches lie there before. On a GPU parts are timed by events in its queue.
        size: which of SIZES the workloads are taken from.
    """
    with threadpool_limits(1), invited(comm, peers, place, compile) as guests:
        where = {**surroundings(comm), **place.where}
        for guest in guests:
            where |= guest.where
        ceiling = None if place.device == "cpu" else _ceiling(comm, place)
        for name in workloads:
            race = _race(comm, SIZES[size][name], rounds, modes, guests, where, place)
            for library in (place, *guests):
                library.release()  # before the next models come, of other sizes
            yield replace(race, ceiling=ceiling)


def _ceiling(comm: Communicator, place: Place) -> tuple[str, float]:
    """What the device of rank 0 multiplies at best, while the others wait: they may share it. Collective."""
    found = json.dumps(best_product(place)) if comm.rank == 0 else ""
    kind, rate = json.loads(comm.broadcast_bytes(found.encode()).decode())
    return kind, rate


def _batches(workload: Workload, stream: np.random.Generator, steps: int) -> list[Batch]:
    """As many different ones as are wanted, or as a device has room for."""
    found = [workload.batch(stream)]
    room = max(2, _BATCH_BYTES // sum(part.nbytes for part in found[0]))
    return found + [workload.batch(stream) for _ in range(1, min(_BATCHES, steps, room))]


def _race(comm: Communicator, workload: Workload, rounds: int, modes: Sequence[str],
          guests: Sequence[Peer], where: dict[str, str], place: Place) -> Race:
    batches = _batches(workload, np.random.default_rng([0, comm.rank]), rounds * (_LEAD + 1) + _WARMUP)
    library = place.library()
    modules = []
    for _ in modes:
        manual_seed(0)
        modules.append(workload.build(library))
    state = {name: tensor.numpy().copy() for name, tensor in modules[0].state_dict().items()}
    models: list[DataParallel] = []
    trainers: list[Contestant] = []
    left_out = {}
    for mode, module in zip(modes, modules, strict=True):
        models.append(DataParallel(place.to(module), comm))
        trainers.append(_ours(mode, models[-1], batches, place))
    for guest in guests:
        try:
            trainers.append(guest.contestant(workload, state, batches, RATE))
        except LeftOut as why:
            left_out[guest.name] = str(why)
    measure({trainer.name: trainer.step for trainer in trainers}, rounds, _WARMUP,
            before=comm.barrier, lead=_LEAD)
    mine = np.array([trainer.notes for trainer in trainers])
    notes = np.empty((comm.size, *mine.shape))  # (rank, contestant, step, column)
    comm.allgather(mine, notes)
    kept = {"distgrad": place.kept(), **{guest.name: guest.kept() for guest in guests}} if place.is_gpu else {}
    for model in models:
        model.close()
    race = _judged(workload, [t.name for t in trainers], notes, sum(a.size for a in state.values()), left_out, where)
    return replace(race, kept=kept)


def _ours(mode: str, model: Any, batches: list[Batch], place: Place) -> Trainer:
    waiting = Waiting(model, place.clock) if model.comm.size > 1 else None
    name, optimizer = "distgrad", Adam
    if mode == "sharded":
        name, optimizer = "distgrad sharded", partial(ZeroRedundancyOptimizer, optimizer_class=Adam)
    return Trainer(name, place.library(), model, optimizer(model.parameters(), lr=RATE), batches, waiting, place.clock)


def _judged(workload: Workload, names: list[str], notes: np.ndarray, parameters: int,
            left_out: dict[str, str], where: dict[str, str]) -> Race:
    """Times of the slowest rank, and what else is worth knowing of all of them."""
    timed = notes[:, :, _WARMUP + _LEAD::_LEAD + 1]
    column = {name: timed[..., i] for i, name in enumerate(COLUMNS)}  # each (rank, contestant, timed step)
    slowest = column["total"].argmax(0)[None]
    parts = {}
    for part in PARTS:
        times = np.take_along_axis(column[part], slowest, 0)[0]
        known = {name: row.tolist() for name, row in zip(names, times, strict=True) if not np.isnan(row).any()}
        if known:
            parts[part] = summarize(known)
    losses = notes[..., COLUMNS.index("loss")]
    differences = np.abs(losses / losses[:, :1] - 1).max((0, 2))
    faults = np.median(column["faults"], axis=2).max(0)
    clipped = (column["norm"][0] > 1).sum(1)
    return Race(workload, len(notes), timed.shape[2], parameters, parts,
                dict(zip(names, losses[0].tolist(), strict=True)), dict(zip(names, differences.tolist(), strict=True)),
                dict(zip(names, faults.tolist(), strict=True)), dict(zip(names, clipped.tolist(), strict=True)),
                left_out, where)


def report(race: Race) -> None:
    """Print tables and JSON lines, one table a part, and in words what else was seen."""
    workload = race.workload
    title = f"step: {workload.name}, {race.ranks} rank{'s' * (race.ranks > 1)}"
    print(f"{title}: {workload.text} a rank, {race.parameters:,} parameters")
    facts = {"workload": workload.name, "text": workload.text, "ranks": race.ranks, "parameters": race.parameters}
    rates = race.rates()
    for part, samples in race.parts.items():
        more = {} if part != "total" else {"loss_difference": race.differences, "page_faults": race.faults,
                                           "clipped": race.clipped, "left_out": race.left_out, "kept": race.kept,
                                           "flops": workload.flops, "tflops": rates, "ceiling": race.ceiling,
                                           **race.where}
        show(f"{title}: {part}", samples, scale=1000, unit="ms", part=part, **facts, **more)
    first, *others = race.losses
    curve = race.losses[first]
    print(f"  losses: {curve[0]:.4f} ... {curve[-1]:.4f} in {len(curve)} steps"
          + "".join(f"; {name} differs by {race.differences[name]:.1e} at most" for name in others))
    print("  page faults a step: " + ", ".join(f"{name} {count:g}" for name, count in race.faults.items()))
    print("  norms above 1, clipped: " + ", ".join(f"{name} {count} of {race.rounds}"
                                                   for name, count in race.clipped.items()))
    if race.ceiling is not None:
        kind, best = race.ceiling
        print(f"  products, {workload.flops / 1e12:.3g} TFLOP a step: " + ", ".join(
            f"{name} {rate:.3g} TFLOP/s, {rate / best:.0%} of the device's {best:.3g} ({kind})"
            for name, rate in rates.items()))
    if race.kept:
        print("  memory kept of the device: " + ", ".join(f"{name} {size / 2**30:.2f} GiB"
                                                          for name, size in race.kept.items()))
    print("".join(f"  {name} {why}\n" for name, why in race.left_out.items()), end="", flush=True)
