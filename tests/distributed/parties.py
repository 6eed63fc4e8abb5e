"""Who trains in the scenarios: one rank of several, or one process that sees the whole batch.

`Together` has DataParallel models and its own part of every batch; `Alone` has none, and computes all
ranks' losses in one graph. Both note what a step leaves behind, so that one can be held against the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from distgrad import nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer, world
from tests.distributed.models import parameters_of

Loss = Callable[[int], Any]  # of a rank number: that rank's loss


class Party:
    """Whoever trains: how it makes models and optimizers, and how a step's losses become gradients."""

    look = True  # whether it reads .grad between backward and step, which may change what happens to it

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.used: list[list[bool]] = []
        self.models: list[Any] = []
        self.optimizers: list[Any] = []
        self.notes: list[dict[str, Any]] = []

    def model(self, module: nn.Module) -> Any:
        raise NotImplementedError

    def adam(self, parameters: Any, lr: float = 1e-2) -> Any:
        raise NotImplementedError

    def loss(self, loss: Loss) -> Any:
        """Whose backward gives the mean of all ranks' losses."""
        raise NotImplementedError

    def backward(self, loss: Loss, **options: Any) -> None:
        self.loss(loss).backward(**options)
        if self.look:
            self.used.append([p.grad is not None for model in self.models for p in model.parameters()])
            self.meet()

    def meet(self) -> None:
        """Everybody has looked: sharded gradients are gone when the first rank goes on."""

    def note(self) -> None:
        """Remember parameters, which had a gradient after each backward, and how often each was updated."""
        self.notes.append({
            "parameters": [p for model in self.models for p in parameters_of(model)],
            "used": self.used,
            "steps": [{number: float(state["step"]) for number, state in optimizer.state_dict()["state"].items()}
                      for optimizer in self.optimizers]})
        self.used = []

    def last_used(self, expected: list[bool]) -> None:
        """Check which parameters had a gradient in the last step, if somebody looked."""
        assert self.notes[-1]["used"][-1:] in ([expected], [])

    def step(self, loss: Loss) -> None:
        """zero_grad, backward, clip, step with every optimizer, note."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.backward(loss)
        self.update()

    def update(self) -> None:
        for model in self.models:
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        for optimizer in self.optimizers:
            optimizer.step()
        self.note()


class Together(Party):
    """One rank of several."""

    def __init__(self, rank: int, ranks: int, sharded: bool = False, look: bool = True, **options: Any) -> None:
        super().__init__(ranks)
        self.rank, self.sharded, self.look, self.options = rank, sharded, look, options

    def model(self, module: nn.Module) -> Any:
        self.models.append(DataParallel(module.double(), **self.options))
        return self.models[-1]

    def adam(self, parameters: Any, lr: float = 1e-2) -> Any:
        self.optimizers.append(ZeroRedundancyOptimizer(parameters, optim.Adam, lr=lr) if self.sharded else
                               optim.Adam(parameters, lr=lr))
        return self.optimizers[-1]

    def loss(self, loss: Loss) -> Any:
        return loss(self.rank)

    def meet(self) -> None:
        world().barrier()

    def close(self) -> None:
        for model in self.models:
            model.close()


class Plain(nn.Module):
    """A module that looks wrapped: `.module` is there, and does nothing."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class Alone(Party):
    """The single process, which computes all ranks' losses in one graph."""

    def model(self, module: nn.Module) -> Any:
        self.models.append(Plain(module.double()))
        return self.models[-1]

    def adam(self, parameters: Any, lr: float = 1e-2) -> Any:
        self.optimizers.append(optim.Adam(parameters, lr=lr))
        return self.optimizers[-1]

    def loss(self, loss: Loss) -> Any:
        return sum(loss(rank) for rank in range(self.ranks)) / self.ranks


def compare(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Hold a rank's notes against those of the single process."""
    assert len(mine) == len(theirs) > 0
    moved = False
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert a["used"] in (b["used"], []), f"step {step}: which parameters have a gradient"
        assert a["steps"] == b["steps"], f"step {step}: how often each parameter was updated"
        for i, (p, q) in enumerate(zip(a["parameters"], b["parameters"], strict=True)):
            np.testing.assert_allclose(p, q, rtol=1e-8, atol=1e-10, err_msg=f"step {step}, parameter {i}")
            moved = moved or bool((q != theirs[0]["parameters"][i]).any())
    assert moved, "something was learned"
