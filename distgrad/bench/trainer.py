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

from .workloads import Library

__all__ = ["COLUMNS", "MAX_NORM", "PARTS", "Trainer", "Waiting", "noted", "page_faults"]

PARTS = ("total", "forward", "backward", "waiting", "clip", "optimizer")
COLUMNS = (*PARTS, "faults", "norm", "loss")  # what is noted of each step; times in microseconds
MAX_NORM = 1.0


class Waiting:
    """How long a backward of a DataParallel takes from its last gradient until all are means over the ranks."""

    def __init__(self, model: Any) -> None:
        self.seconds = 0.0
        self._finish = model._reducer.finish
        model._reducer.finish = self  # what the reducer's own method was, for this one object

    def __call__(self) -> None:
        begin = time.perf_counter()
        try:
            self._finish()
        finally:
            self.seconds = time.perf_counter() - begin


class Trainer:
    """A model that is trained by one batch after the other.

    Attributes:
        notes: one row of COLUMNS for each step; see `noted`.
    """

    def __init__(self, name: str, library: Library, model: Any, optimizer: Any,
                 batches: Sequence[tuple[np.ndarray, np.ndarray]], waiting: Waiting | None = None) -> None:
        self.name = name
        self.notes: list[list[float]] = []
        self._loss = library.functional.cross_entropy
        self._clip = library.nn.utils.clip_grad_norm_
        self._model = model
        self._parameters = list(model.parameters())
        self._optimizer = optimizer
        self._batches = [(library.from_numpy(x), library.from_numpy(y)) for x, y in batches]
        self._waiting = waiting

    def step(self) -> None:
        """zero_grad, forward, backward with its exchange, clip, update; timed."""
        x, y = self._batches[len(self.notes) % len(self._batches)]
        clock = time.perf_counter
        faults = page_faults()
        begin = clock()
        self._optimizer.zero_grad()
        zeroed = clock()
        loss = self._loss(self._model(x), y)
        forward = clock()
        loss.backward()
        value = loss.item()
        del loss  # to free the graph belongs to the step
        backward = clock()
        norm = self._clip(self._parameters, MAX_NORM)
        clipped = clock()
        self._optimizer.step()
        end = clock()
        faults = page_faults() - faults
        seconds = {"total": end - begin, "forward": forward - zeroed, "backward": backward - forward,
                   "clip": clipped - backward, "optimizer": end - clipped + zeroed - begin}
        if self._waiting is not None:
            seconds["waiting"] = self._waiting.seconds
        self.notes.append(noted(seconds, faults, norm.item(), value))


def noted(seconds: Mapping[str, float], faults: int, norm: float, loss: float) -> list[float]:
    """A row of COLUMNS: what is known of one step; a part whose seconds are not given is NaN."""
    return [*(seconds.get(part, math.nan) * 1e6 for part in PARTS), faults, norm, loss]


def page_faults() -> int:
    """Minor page faults of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
