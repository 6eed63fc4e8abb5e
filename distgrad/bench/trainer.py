"""One library's training step, in the parts that are timed; the same lines for this package and for its peer.

It knows a model, an optimizer and batches, and neither who else is measured nor what comes of it.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .place import HOST, Clock
from .workloads import Library

__all__ = ["COLUMNS", "MAX_NORM", "PARTS", "Trainer", "Waiting", "noted", "page_faults"]

# 'host' is, on a GPU, how long the host was busy with handing out the step's work, which the device does meanwhile.
PARTS = ("total", "forward", "backward", "waiting", "clip", "optimizer", "host")
COLUMNS = (*PARTS, "faults", "norm", "loss")  # what is noted of each step; times in microseconds
MAX_NORM = 1.0


class Waiting:
    """How long a backward of a DataParallel takes from its last gradient until all are means over the ranks.

    Attributes:
        marks: of the clock, at both ends of the last one.
    """

    def __init__(self, model: Any, clock: Clock = HOST) -> None:
        self.marks: tuple[Any, Any] | None = None
        self._clock = clock
        self._finish = model._reducer.finish
        model._reducer.finish = self  # what the reducer's own method was, for this one object

    def __call__(self) -> None:
        begin = self._clock.mark()
        try:
            self._finish()
        finally:
            self.marks = begin, self._clock.mark()


class Trainer:
    """A model that is trained by one batch after the other.

    Attributes:
        notes: one row of COLUMNS for each step; see `noted`.
    """

    def __init__(self, name: str, library: Library, model: Any, optimizer: Any,
                 batches: Sequence[tuple[np.ndarray, np.ndarray]], waiting: Waiting | None = None,
                 clock: Clock = HOST) -> None:
        self.name = name
        self.notes: list[list[float]] = []
        self._loss = library.functional.cross_entropy
        self._clip = library.nn.utils.clip_grad_norm_
        self._model = model
        self._parameters = list(model.parameters())
        self._optimizer = optimizer
        self._batches = [(library.from_numpy(x), library.from_numpy(y)) for x, y in batches]
        self._waiting = waiting
        self._clock = clock

    def step(self) -> None:
        """zero_grad, forward, backward with its exchange, clip, update; timed.

        Between the parts nothing waits for a device: marks are read when all is done, and so are loss and norm.
        """
        x, y = self._batches[len(self.notes) % len(self._batches)]
        mark, between = self._clock.mark, self._clock.seconds
        self._clock.synchronize()
        faults, called = page_faults(), time.perf_counter()
        begin = mark()
        self._optimizer.zero_grad()
        zeroed = mark()
        loss = self._loss(self._model(x), y)
        forward = mark()
        loss.backward()
        value = loss.detach()
        del loss  # to free the graph belongs to the step
        backward = mark()
        norm = self._clip(self._parameters, MAX_NORM)
        clipped = mark()
        self._optimizer.step()
        end = mark()
        returned, faults = time.perf_counter(), page_faults() - faults
        self._clock.synchronize()
        seconds = {"total": between(begin, end), "forward": between(zeroed, forward),
                   "backward": between(forward, backward), "clip": between(backward, clipped),
                   "optimizer": between(clipped, end) + between(begin, zeroed)}
        if self._waiting is not None and self._waiting.marks is not None:
            seconds["waiting"] = between(*self._waiting.marks)
        if self._clock.events:
            seconds["host"] = returned - called
        self.notes.append(noted(seconds, faults, norm.item(), value.item()))


def noted(seconds: Mapping[str, float], faults: int, norm: float, loss: float) -> list[float]:
    """A row of COLUMNS: what is known of one step; a part whose seconds are not given is NaN."""
    return [*(seconds.get(part, math.nan) * 1e6 for part in PARTS), faults, norm, loss]


def page_faults() -> int:
    """Minor page faults of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
