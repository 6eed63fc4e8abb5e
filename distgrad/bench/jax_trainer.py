"""A training step in JAX: forward, backward, clip and Adam in one jitted function, as its users write it.

What a model computes stands in jax_workloads; who else is measured is not known here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .jax_workloads import MODELS, Model, cross_entropy
from .trainer import MAX_NORM, noted, page_faults
from .workloads import Batch, Workload

__all__ = ["JittedTrainer", "contestant", "in_this_thread"]


_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class JittedTrainer:
    """A pure model that is trained by one batch after the other.

    Attributes:
        notes: as Trainer's; of a step that is compiled as a whole only 'total' can be told among the times.
    """

    def __init__(self, name: str, model: Model, state: Mapping[str, np.ndarray], rate: float,
                 batches: Sequence[Batch]) -> None:
        self.name = name
        self.notes: list[list[float]] = []
        parameters = {name: jnp.array(array) for name, array in state.items()}
        zeros = [{name: jnp.zeros_like(p) for name, p in parameters.items()} for _ in range(2)]
        self._state = (parameters, *zeros, jnp.zeros(()))
        self._batches = [(jnp.array(x), jnp.array(y)) for x, y in batches]
        # What goes in is not needed any more: Adam may work in place, as everybody's here does.
        self._step = jax.jit(partial(_step, model, rate), donate_argnums=0)

    def step(self) -> None:
        """The whole step, until all of its results are there; timed."""
        x, y = self._batches[len(self.notes) % len(self._batches)]
        faults = page_faults()
        begin = time.perf_counter()
        self._state, loss, norm = jax.block_until_ready(self._step(self._state, x, y))
        value = loss.item()
        seconds = time.perf_counter() - begin
        self.notes.append(noted({"total": seconds}, page_faults() - faults, norm.item(), value))


def in_this_thread() -> str:
    """Have JAX compute where it is called, if it has not computed yet; its version.

    A step whose loss is looked at gains nothing by a thread of its own, and loses the time to wake it.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return jax.__version__


def contestant(workload: Workload, state: Mapping[str, np.ndarray], batches: Sequence[Batch],
               rate: float) -> JittedTrainer:
    """JAX on this workload, with copies of these numbers."""
    return JittedTrainer("jax", MODELS[workload.name], state, rate, batches)


def _step(model: Model, rate: float, state: Any, x: Any, y: Any) -> Any:
    """(parameters, first and second moments, steps before) after one more step; the loss before it, and the norm."""
    with jax.default_matmul_precision("highest"):
        parameters, m, v, t = state
        loss, g = jax.value_and_grad(lambda p: cross_entropy(model(p, x), y))(parameters)
        norm = jnp.sqrt(sum(jnp.sum(each * each) for each in g.values()))
        factor = jnp.minimum(1, MAX_NORM / (norm + 1e-6))
        t = t + 1
        # 1 - beta ** t; float32 would lose half of its digits in the difference.
        bias1, bias2 = (-jnp.expm1(t * math.log(beta)) for beta in (_BETA1, _BETA2))
        g = jax.tree.map(lambda g: g * factor, g)
        m = jax.tree.map(lambda m, g: _BETA1 * m + (1 - _BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: _BETA2 * v + (1 - _BETA2) * g * g, v, g)
        parameters = jax.tree.map(lambda p, m, v: p - rate / bias1 * m / (jnp.sqrt(v / bias2) + _EPS), parameters, m, v)
        return (parameters, m, v, t), loss, norm
