"""The models and batches on which training steps are measured.

Each model is written once, against names that this package and torch both have (`Library`), so that its twin in the
peer is the same text with the same names in `state_dict`. A batch is numpy arrays; who trains is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import nn
from .._tensor.creation import arange, from_numpy
from ..nn import functional

__all__ = ["HEADS", "OURS", "WORKLOADS", "Batch", "Library", "Workload"]

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Library:
    """What models and their training need of an autograd library."""

    nn: Any
    functional: Any
    arange: Callable[..., Any]
    from_numpy: Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Workload:
    """One model and the batches that every rank trains it on.

    Attributes:
        text: its sizes, for people.
        build: library -> module, from inputs to scores (samples, classes).
        batch: stream -> (inputs, classes of the samples); its size does not depend on the number of ranks.
    """

    name: str
    text: str
    build: Callable[[Library], Any]
    batch: Callable[[np.random.Generator], Batch]


OURS = Library(nn, functional, arange, from_numpy)


# -- classifiers of single samples

def _perceptron(hidden: int) -> Callable[[Library], Any]:
    def build(library: Library) -> Any:
        nn = library.nn
        return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                             nn.Linear(hidden, 10))

    return build


def _convolutional(library: Library) -> Any:
    nn = library.nn
    return nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10))


def _samples(*shape: int) -> Callable[[np.random.Generator], Batch]:
    """Noise, and which of its first ten numbers is the largest."""

    def batch(stream: np.random.Generator) -> Batch:
        x = stream.standard_normal(shape, "float32")
        return x, x.reshape(shape[0], -1)[:, :10].argmax(1)

    return batch


# -- sequences

_STEPS, _BATCH, _FEATURES, _CLASSES = 64, 16, 256, 64


def _recurrent(kind: str) -> Callable[[Library], Any]:
    def build(library: Library) -> Any:
        nn = library.nn

        class Tagger(nn.Module):
            """Scores of a class at every step: (time, batch, features) -> (time * batch, classes)."""

            def __init__(self) -> None:
                super().__init__()
                self.layers = getattr(nn, kind)(_FEATURES, 256, num_layers=2)
                self.head = nn.Linear(256, _CLASSES)

            def forward(self, x: Any) -> Any:
                return self.head(self.layers(x)[0]).flatten(0, 1)

        return Tagger()

    return build


def _signals(stream: np.random.Generator) -> Batch:
    """Noise; the class is which of the features was largest one step before."""
    x = stream.standard_normal((_STEPS, _BATCH, _FEATURES), "float32")
    return x, np.roll(x[..., :_CLASSES].argmax(-1), 1, axis=0).reshape(-1)


# -- a language model

_VOCABULARY, _LENGTH, _TEXTS, _WIDTH, HEADS, _BLOCKS = 256, 128, 8, 128, 4, 4


def _language_model(library: Library) -> Any:
    nn, F = library.nn, library.functional

    class Block(nn.Module):
        """x + attention(norm(x)), then x + feed(norm(x)): (batch, length, width) to the same."""

        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(_WIDTH)
            self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
            self.out = nn.Linear(_WIDTH, _WIDTH)
            self.norm2 = nn.LayerNorm(_WIDTH)
            self.feed = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))

        def forward(self, x: Any) -> Any:
            n, length, width = x.shape
            q, k, v = (part.reshape(n, length, HEADS, width // HEADS).transpose(1, 2)
                       for part in self.qkv(self.norm1(x)).chunk(3, -1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(n, length, width))
            return x + self.feed(self.norm2(x))

    class Transformer(nn.Module):
        """Scores of the next token at every place: (batch, length) -> (batch * length, vocabulary)."""

        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(_VOCABULARY, _WIDTH)
            self.position = nn.Embedding(_LENGTH, _WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(_BLOCKS)])
            self.norm = nn.LayerNorm(_WIDTH)
            self.head = nn.Linear(_WIDTH, _VOCABULARY)

        def forward(self, x: Any) -> Any:
            y = self.token(x) + self.position(library.arange(x.shape[1]))
            return self.head(self.norm(self.blocks(y))).flatten(0, 1)

    return Transformer()


def _texts(stream: np.random.Generator) -> Batch:
    """Tokens that go up by a stride of their own in each text, one in ten of them replaced; the class is the next."""
    first, stride = stream.integers(_VOCABULARY, size=(_TEXTS, 1)), stream.integers(1, 9, (_TEXTS, 1))
    tokens = (first + stride * np.arange(_LENGTH + 1)) % _VOCABULARY
    noise = stream.integers(_VOCABULARY, size=tokens.shape)
    tokens = np.where(stream.random(tokens.shape) < 0.1, noise, tokens)
    return np.ascontiguousarray(tokens[:, :-1]), tokens[:, 1:].reshape(-1)


WORKLOADS = {found.name: found for found in (
    Workload("mlp", "784-512-512-10, batch 64", _perceptron(512), _samples(64, 784)),
    Workload("mlp_tiny", "784-32-32-10, batch 16", _perceptron(32), _samples(16, 784)),
    Workload("mlp_wide", "784-2048-2048-10, batch 64", _perceptron(2048), _samples(64, 784)),
    Workload("lstm", "2 x 256, batch 16, 64 steps", _recurrent("LSTM"), _signals),
    Workload("gru", "2 x 256, batch 16, 64 steps", _recurrent("GRU"), _signals),
    Workload("gpt", "4 blocks of 128, 4 heads, batch 8 x 128 tokens", _language_model, _texts),
    Workload("cnn", "2 convolutions, 2 linear, batch 32 of 28 x 28", _convolutional, _samples(32, 1, 28, 28)),
)}
