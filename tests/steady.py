"""Small models of every family and the step that trains them, for tests that count what a step moves.

Each has what its family has in practice: dropout, norms, masks, embeddings, states; `batch` makes one on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import distgrad as dg
from distgrad import nn
from distgrad.nn import functional as F

__all__ = ["FAMILIES", "Family", "Step"]

WORDS, LENGTH = 11, 4


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, 2, batch_first=True, dropout=0.2)
        self.gru = nn.GRU(6, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True, dropout=0.1)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size), nn.Dropout(0.1))

    def forward(self, x: Any, mask: Any) -> Any:
        y = self.before(x)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.after(x))


class Language(nn.Module):
    """A GPT: positions are made in forward, the causal mask is a buffer; the second block's attention has none."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 8), nn.Embedding(LENGTH, 8)
        self.blocks = nn.ModuleList([Block(8), Block(8)])
        self.join = nn.Linear(8, 24)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, WORDS))
        self.register_buffer("mask", dg.triu(dg.ones(LENGTH, LENGTH), 1) == 1)

    def forward(self, x: Any) -> Any:
        y = self.words(x) + self.places(dg.arange(x.shape[1], device=x.device))
        y = F.dropout(y, 0.1, self.training)
        for block in self.blocks:
            y = block(y, self.mask)
        q, k, v = self.join(y).reshape(*x.shape, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = y + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(*y.shape)
        return self.head(y).flatten(0, 1)


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        make: the model, on the default device.
        batch: (inputs, targets) on the host.
        loss: of the model's output and the targets.
        drops: calls of dropout in a step. The host's generator draws for devices that have none of their own.
        checks: how often a step looks whether indices are in range. A device that would have to wait does not.
    """

    make: Callable[[], Any]
    batch: Callable[[Any], tuple[np.ndarray, np.ndarray]]
    loss: Callable[[Any, Any], Any] = F.cross_entropy
    drops: int = 0
    checks: int = 1


def _vectors(stream: Any) -> tuple[np.ndarray, np.ndarray]:
    return stream.standard_normal((4, 5)).astype("float32"), stream.integers(0, 3, 4)


def _numbers(stream: Any) -> tuple[np.ndarray, np.ndarray]:
    return stream.standard_normal((4, 5)).astype("float32"), stream.random((4, 3)).astype("float32")


def _mlp(width: int = 7) -> Any:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


def _cnn() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3),
        nn.GroupNorm(2, 4), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 3))


def _other_losses(output: Any, target: Any) -> Any:
    return (F.mse_loss(output, target) + F.smooth_l1_loss(output, target) + F.huber_loss(output, target) +
            F.l1_loss(output, target) + F.binary_cross_entropy_with_logits(output, target) +
            F.kl_div(F.log_softmax(output, -1), target) + (output.norm() + output.std() + output.max()) * 0.1)


def _smoothed(output: Any, target: Any) -> Any:
    return F.cross_entropy(output, target, label_smoothing=0.1) + F.nll_loss(F.log_softmax(output, -1), target)


FAMILIES = {
    "mlp": Family(_mlp, _vectors),
    "cnn": Family(_cnn, lambda s: (s.standard_normal((4, 1, 8, 8)).astype("float32"), s.integers(0, 3, 4)), drops=1),
    "lstm": Family(Recurrent, lambda s: (s.standard_normal((4, 5, 5)).astype("float32"), s.integers(0, 3, 4)), drops=1),
    "gpt": Family(Language, lambda s: (s.integers(0, WORDS, (2, LENGTH)), s.integers(0, WORDS, 2 * LENGTH)), drops=5,
                  checks=3),
    "wide": Family(lambda: _mlp(900), _vectors),  # several buckets
    "losses": Family(_mlp, _numbers, _other_losses, checks=0),
    "smoothed": Family(_mlp, _vectors, _smoothed, checks=2),
}


class Step:
    """A training loop, one call a step: batch to the device, forward, backward, clip, update.

    Args:
        wrap: what is done with the module before its optimizer is made, such as DataParallel.
        look: read every `p.grad` between backward and clip.
        weight: of each batch, in the model's own weighted backward; None for that of the loss.
    """

    def __init__(self, family: str, optimizer: Callable[[Any], Any], wrap: Callable[[Any], Any] = lambda m: m, *,
                 device: str, look: bool = False, weight: float | None = None, seed: int = 0,
                 max_norm: float = 0.1) -> None:
        self.family = FAMILIES[family]
        dg.manual_seed(0)
        self.model = wrap(self.family.make().to(device))
        self.optimizer = optimizer(self.model.parameters())
        self.device, self.look, self.weight, self.max_norm = device, look, weight, max_norm
        self.stream = np.random.default_rng(seed)

    def __call__(self) -> Any:
        """One step; the norm, a tensor on the device."""
        x, target = (dg.tensor(part, device=self.device) for part in self.family.batch(self.stream))
        self.optimizer.zero_grad()
        loss = self.family.loss(self.model(x), target)
        if self.weight is None:
            loss.backward()
        else:
            self.model.backward(loss, self.weight)
        if self.look:
            assert all(p.grad is not None for p in self.model.parameters())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        return norm

    def parameters(self) -> list[np.ndarray]:
        """What the model has come to."""
        return [p.detach().cpu().numpy() for p in self.model.parameters()]
