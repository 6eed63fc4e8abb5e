"""Small models and the training loops of the master and the bitwise tests; used on simulated and on real ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import distgrad
from distgrad import nn, optim
from distgrad.distributed import DataParallel, ZeroRedundancyOptimizer
from distgrad.nn import functional as F

STEPS = 10
BATCH = 12


class Sequence(nn.Module):
    """Embedding, LSTM, linear: the character model in small."""

    def __init__(self, width: int = 9) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, width, 2, batch_first=True)
        self.head = nn.Linear(width, 11)

    def forward(self, x: Any) -> Any:
        output, _ = self.lstm(self.embedding(x))
        return self.head(output).reshape(-1, 11)


class Transformer(nn.Module):
    """A causal transformer of one block in four grid blocks of memory; its head is the embedding's matrix once more."""

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(11, width)
        self.position = nn.Parameter(distgrad.randn(6, width) * 0.1)
        self.before, self.between, self.after = (nn.LayerNorm(width) for _ in range(3))
        self.queries_keys_values, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attend(self, h: Any) -> Any:
        batch, length, width = h.shape
        q, k, v = (part.reshape(batch, length, self.heads, -1).transpose(1, 2)
                   for part in self.queries_keys_values(h).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.mix(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: Any) -> Any:
        h = self.embedding(x) + self.position
        h = h + self.attend(self.before(h))
        h = h + self.feed(self.between(h))
        return F.linear(self.after(h), self.embedding.weight).reshape(-1, 11)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 70), nn.Tanh(), nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 3))


def wide() -> nn.Module:
    """Eleven grid blocks, where the others have one: every rank gets a share."""
    return nn.Sequential(nn.Linear(8, 250), nn.Tanh(), nn.Linear(250, 160), nn.ReLU(), nn.Linear(160, 3))


MODELS: dict[str, Any] = {"mlp": mlp, "lstm": Sequence, "wide": wide, "transformer": Transformer}
# Several grid blocks each, so that every rank has a share to reduce and to update.
LARGE: dict[str, Any] = {"mlp": wide, "lstm": lambda: Sequence(40), "transformer": Transformer}
READERS = ("lstm", "transformer")  # the models of text


def batch(name: str, rank: int, ranks: int, step: int) -> tuple[Any, Any]:
    """This rank's shard of the step's batch."""
    stream = np.random.default_rng(100 + step)
    if name not in READERS:
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


def lockstep(name: str, dtype: str, mine: list[int], parts: int, *, sharded: bool = False, plain: bool = False,
             **options: Any) -> Trace:
    """Ten steps of Adam with clipping, on the micro-batches `mine` of `parts`, each with weight 1.

    Args:
        sharded: by ZeroRedundancyOptimizer.
        plain: by loss.backward(); otherwise by model.backward(loss, weight=1).
        options: DataParallel's.
    """
    distgrad.manual_seed(3)
    model = DataParallel(LARGE[name]().to(dtype), **options)
    optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=1e-2) if sharded else \
        optim.Adam(model.parameters(), lr=1e-2)
    found = Trace(transport=model.transport)
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in mine:
            x, y = batch(name, part, parts, step)
            loss = F.cross_entropy(model(x if name in READERS else x.to(dtype)), y)
            if plain:
                loss.backward()
            else:
                model.backward(loss, weight=1)
            found.losses.append(loss.item())
        found.norms.append(nn.utils.clip_grad_norm_(model.parameters(), found.max_norm).item())
        optimizer.step()
        found.parameters.append(flat(model))
    model.close()
    return found
