"""Small models and the training loop of the master test; used on simulated and on real ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import distgrad
from distgrad import nn, optim
from distgrad.distributed import DataParallel
from distgrad.nn import functional as F

STEPS = 10
BATCH = 12


class Sequence(nn.Module):
    """Embedding, LSTM, linear: the character model in small."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 9, 2, batch_first=True)
        self.head = nn.Linear(9, 11)

    def forward(self, x: Any) -> Any:
        output, _ = self.lstm(self.embedding(x))
        return self.head(output).reshape(-1, 11)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 70), nn.Tanh(), nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 3))


def wide() -> nn.Module:
    """Eleven grid blocks, where the others have one: every rank gets a share."""
    return nn.Sequential(nn.Linear(8, 250), nn.Tanh(), nn.Linear(250, 160), nn.ReLU(), nn.Linear(160, 3))


MODELS: dict[str, Any] = {"mlp": mlp, "lstm": Sequence, "wide": wide}


def batch(name: str, rank: int, ranks: int, step: int) -> tuple[Any, Any]:
    """This rank's shard of the step's batch."""
    stream = np.random.default_rng(100 + step)
    if name != "lstm":
        x = stream.standard_normal((BATCH, 8))
        y = x[:, :3].argmax(1)
    else:
        text = stream.integers(0, 11, (BATCH, 7))
        x, y = text[:, :-1], text[:, 1:]
    part = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    return distgrad.tensor(x[part]), distgrad.tensor(y[part].reshape(-1))


@dataclass
class Trace:
    """What one rank saw."""

    max_norm: float = 0.05
    transport: str = ""
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    parameters: list[np.ndarray] = field(default_factory=list)


def parameters_of(model: Any, grad: bool = False) -> list[np.ndarray]:
    return [(p.grad if grad else p.detach()).numpy().copy() for p in model.parameters()]


def flat(model: Any, grad: bool = False) -> np.ndarray:
    return np.concatenate([a.ravel() for a in parameters_of(model, grad)])


def train(name: str, rank: int, ranks: int, options: dict[str, Any] | None) -> Trace:
    """Ten steps of Adam with clipping, in float64; `options` are DataParallel's, None trains unwrapped."""
    distgrad.manual_seed(3)
    model: Any = MODELS[name]().double()
    if options is not None:
        model = DataParallel(model, **options)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    found = Trace(transport=model.transport if options is not None else "")
    for step in range(STEPS):
        x, y = batch(name, rank, ranks, step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        found.norms.append(nn.utils.clip_grad_norm_(model.parameters(), found.max_norm).item())
        optimizer.step()
        found.losses.append(loss.item())
        found.parameters.append(flat(model))
    if options is not None:
        model.close()
    return found
