"""One small training with everything that has a state: dropout, running statistics, a schedule, a sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import distgrad as dg
from distgrad import nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, get_rank, get_world_size
from distgrad.optim.lr_scheduler import CosineAnnealingLR, SequentialLR, StepLR

__all__ = ["GLOBAL_BATCH", "SAMPLES", "Order", "Training", "bits"]

SAMPLES, GLOBAL_BATCH = 60, 12


class Order:
    """Batches of indices in an order of its own for each epoch; its state does not know of ranks."""

    def __init__(self) -> None:
        self.epoch = self.batch = 0

    def __next__(self) -> list[int]:
        if (self.batch + 1) * GLOBAL_BATCH > SAMPLES:
            self.epoch, self.batch = self.epoch + 1, 0
        order = np.random.default_rng([3, self.epoch]).permutation(SAMPLES)
        begin = self.batch * GLOBAL_BATCH
        self.batch += 1
        return order[begin + get_rank():begin + GLOBAL_BATCH:get_world_size()].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


class Training:
    """The whole of it on one rank.

    Attributes:
        state: what is saved.
        seen: the indices that this rank has trained on, step by step.
    """

    def __init__(self, sharded: bool = True, kind: Any = optim.Adam, dropout: float = 0.2, norm: bool = True,
                 **options: Any) -> None:
        dg.manual_seed(100 + get_rank())
        layers = [nn.Linear(40, 150), *([nn.BatchNorm1d(150)] if norm else []), nn.ReLU(), nn.Dropout(dropout),
                  nn.Linear(150, 60), nn.ReLU(), nn.Linear(60, 5)]
        self.model = DataParallel(nn.Sequential(*layers), bucket_bytes=1 << 14, **options)
        groups = [{"params": list(self.model.module[0].parameters()), "lr": 0.02},
                  {"params": [p for layer in layers[1:] for p in layer.parameters()]}]
        make: Any = ZeroRedundancyOptimizer if sharded else lambda params, cls, **o: cls(params, **o)
        self.optimizer = make(groups, kind, lr=0.01)
        self.order = Order()
        self.state = {"model": self.model, "optimizer": self.optimizer, "sampler": self.order}
        if not sharded:
            self.schedule = SequentialLR(self.optimizer, [StepLR(self.optimizer, 2, 0.5),
                                                          CosineAnnealingLR(self.optimizer, 8)], [5])
            self.state["schedule"] = self.schedule
        stream = np.random.default_rng(0)
        self.x = dg.from_numpy(stream.standard_normal((SAMPLES, 40)).astype("float32"))
        self.y = dg.from_numpy(stream.integers(5, size=SAMPLES))
        self.seen: list[list[int]] = []

    def step(self) -> float:
        """One step on this rank's part of the batch."""
        indices = next(self.order)
        self.seen.append(indices)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.x[indices]), self.y[indices])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimizer.step()
        if "schedule" in self.state:
            self.schedule.step()
        return loss.item()

    def run(self, steps: int) -> list[float]:
        """The losses of so many steps."""
        return [self.step() for _ in range(steps)]


def bits(training: Training) -> dict[str, Any]:
    """All values that there are, as plain arrays and numbers, to be compared."""
    found: dict[str, Any] = {f"model.{name}": tensor.numpy().copy()
                             for name, tensor in training.model.state_dict().items()}
    packed = training.optimizer.state_dict()
    for number, state in packed["state"].items():
        found |= {f"optimizer.{number}.{name}": value.numpy().copy() for name, value in state.items()}
    found["options"] = [{name: value for name, value in group.items() if name != "initial_lr"}  # that of a schedule
                        for group in packed["param_groups"]]
    found["sampler"] = training.order.state_dict()
    if "schedule" in training.state:
        found["schedule"] = training.schedule.state_dict()
    return found
