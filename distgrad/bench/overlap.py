"""How much of an exchange a backward hides: steps without it, with it, and with it only after backward's end.

exposed = (step with exchange - step without) / exchange alone: 0 where all of it is hidden, 1 where none is. For
ranks on several hosts, started by a launcher; ranks of one host need transport 'mpi' to have a wire at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .._tensor.creation import manual_seed
from ..comm import Communicator
from ..distributed import DataParallel
from .clock import Sample, show
from .place import HERE, Place
from .ranks import Gradients, slowest
from .surroundings import surroundings
from .workloads import OURS, WORKLOADS, Workload

__all__ = ["SYNTHETIC", "Exposure", "report", "run", "synthetic"]

SYNTHETIC = "synthetic"
_LAYERS = 16
_MOST_SAMPLES = 1 << 14
_TRIES = 4      # to find the batch whose backward takes as long as wanted
_GLANCE = 3     # rounds of a measurement that only steers


@dataclass(frozen=True)
class Exposure:
    """What was measured.

    Attributes:
        samples: 'no exchange', 'overlap', 'no overlap', 'exchange alone', 'forward'; with a hook its own two.
        exposed: contestant with exchange -> the share of the exchange that its step takes longer for.
        ratio: time of backward without exchange / time of the exchange alone.
        transports: contestant with exchange -> how its gradients travelled.
    """

    workload: Workload
    ranks: int
    parameters: int
    samples: list[Sample]
    exposed: dict[str, float]
    ratio: float
    transports: dict[str, str]
    where: dict[str, str]


class _Alone(Gradients):
    """The exchange of a model that is there already, with its transport, buckets and hook."""

    def __init__(self, model: Any) -> None:
        self._model, self._reducer = model, model._reducer


class _Model:
    """A wrapped model, one batch, and the calls that are timed."""

    def __init__(self, workload: Workload, comm: Communicator, place: Place, **options: Any) -> None:
        manual_seed(0)
        self._library = place.library()
        self.model = DataParallel(place.to(workload.build(self._library)), comm, **options)
        self.exchange = _Alone(self.model).exchange
        self.use(workload, comm)

    def use(self, workload: Workload, comm: Communicator) -> None:
        """Go on with another batch."""
        self._x, self._y = map(self._library.from_numpy, workload.batch(np.random.default_rng([0, comm.rank])))

    def forward(self) -> Any:
        """The loss, and no gradients."""
        self.model.zero_grad()
        return OURS.functional.cross_entropy(self.model.module(self._x), self._y)

    def step(self) -> None:
        """zero_grad, forward, backward with its exchange."""
        self.model.zero_grad()
        OURS.functional.cross_entropy(self.model(self._x), self._y).backward()

    def step_alone(self) -> None:
        """The same without exchange."""
        with self.model.no_sync():
            self.step()


def synthetic(megabytes: float, samples: int) -> Workload:
    """Square linear layers of so many megabytes together; a backward is two matrix products a layer."""
    width = max(2, round(math.sqrt(megabytes * 2**20 / 4 / _LAYERS)))

    def build(library: Any) -> Any:
        nn = library.nn
        return nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(_LAYERS)])

    def batch(stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return stream.standard_normal((samples, width), "float32"), stream.integers(width, size=samples)

    return Workload(SYNTHETIC, f"{_LAYERS} layers of {width} x {width}, batch {samples}", build, batch)


def run(comm: Communicator, workload: str = SYNTHETIC, megabytes: float = 16.0, ratio: float = 1.0,
        transport: str = "auto", hook: tuple[str, Callable[..., Any]] | None = None, rounds: int = 30,
        place: Place = HERE) -> Exposure:
    """Measure steps of a model with and without their exchange, on all ranks of `comm`. Collective.

    Args:
        workload: a name in WORKLOADS, or SYNTHETIC.
        megabytes, ratio: of the synthetic model: how much it exchanges, and how long its backward computes, as
            a multiple of the exchange alone.
        transport: as for DataParallel.
        hook: a comm hook and its name, for two contestants more.
        place: where the model lies.
    """
    with threadpool_limits(1):
        found = synthetic(megabytes, 16) if workload == SYNTHETIC else WORKLOADS[workload]
        early = _Model(found, comm, place, transport=transport)
        if workload == SYNTHETIC:
            found = _with_ratio(comm, early, megabytes, ratio, place)
        late = _Model(found, comm, place, transport=transport, overlap=False)
        models = {"overlap": early, "no overlap": late}
        contestants = {"no exchange": early.step_alone, "overlap": early.step, "no overlap": late.step,
                       "exchange alone": early.exchange, "forward": early.forward}
        if hook is not None:
            name, function = hook
            hooked = models[f"overlap, {name}"] = _Model(found, comm, place, transport=transport, hook=function)
            contestants |= {f"overlap, {name}": hooked.step, f"exchange alone, {name}": hooked.exchange}
        samples = slowest(comm, contestants, rounds, place=place)
        took = {sample.name: sample.median for sample in samples}
        exposed = {name: (took[name] - took["no exchange"]) / took[_exchange(name)] for name in models}
        transports = {name: model.model.transport for name, model in models.items()}
        parameters = sum(p.numel() for p in early.model.parameters())
        for model in models.values():
            model.model.close()
        return Exposure(found, comm.size, parameters, samples, exposed,
                        (took["no exchange"] - took["forward"]) / took["exchange alone"], transports,
                        {**surroundings(comm), **place.where})


def _exchange(name: str) -> str:
    """Which contestant is the exchange of this one, alone."""
    _, comma, hook = name.partition(",")
    return f"exchange alone{comma}{hook}"


def _with_ratio(comm: Communicator, model: _Model, megabytes: float, ratio: float, place: Place) -> Workload:
    """The synthetic workload with as many samples as make its backward `ratio` exchanges long; the model uses it."""
    samples = 16
    for _ in range(_TRIES):
        workload = synthetic(megabytes, samples)
        model.use(workload, comm)
        calls = {"step": model.step_alone, "forward": model.forward, "exchange": model.exchange}
        took = {sample.name: sample.median for sample in slowest(comm, calls, _GLANCE, warmup=1, place=place)}
        backward = max(took["step"] - took["forward"], 1.0)
        better = max(1, min(_MOST_SAMPLES, round(samples * ratio * took["exchange"] / backward)))
        if abs(better - samples) <= samples // 20:
            break
        samples = better
    workload = synthetic(megabytes, samples)
    model.use(workload, comm)
    return workload


def report(exposure: Exposure) -> None:
    """Print a table, JSON lines, and how much of the exchange is exposed."""
    workload = exposure.workload
    title = f"overlap: {workload.name}, {exposure.ranks} ranks"
    print(f"{title}: {workload.text}, {exposure.parameters:,} parameters; backward computes {exposure.ratio:.2f} times "
          "as long as the exchange alone")
    show(title, exposure.samples, scale=1000, unit="ms", workload=workload.name, ranks=exposure.ranks,
         parameters=exposure.parameters, ratio=exposure.ratio, exposed=exposure.exposed,
         transports=exposure.transports, **exposure.where)
    for name, share in exposure.exposed.items():
        print(f"  exposed, {name} ({exposure.transports[name]}): {share:.0%} of the exchange", flush=True)
