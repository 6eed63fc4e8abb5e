"""The models and batches on which training steps are measured, in sizes for a processor's core and for a whole GPU.

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

__all__ = ["HEADS", "LARGE", "OURS", "SIZES", "WORKLOADS", "Batch", "Library", "Workload"]

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
        flops: floating-point operations of the matrix products (and convolutions) of a forward and its backward: two a
            multiplication with its addition. Attention counts as if nothing were masked; what is elementwise does not.
    """

    name: str
    text: str
    build: Callable[[Library], Any]
    batch: Callable[[np.random.Generator], Batch]
    flops: int = 0


OURS = Library(nn, functional, arange, from_numpy)


def _flops(first: int, *others: int) -> int:
    """Of products with so many multiplications each in forward; the input of the first has no gradient."""
    return 2 * (2 * first + 3 * sum(others))


# -- classifiers of single samples

def _perceptron(name: str, hidden: int, batch: int) -> Workload:
    def build(library: Library) -> Any:
        nn = library.nn
        return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                             nn.Linear(hidden, 10))

    return Workload(name, f"784-{hidden}-{hidden}-10, batch {batch}", build, _samples(batch, 784),
                    batch * _flops(784 * hidden, hidden * hidden, hidden * 10))


def _convolutional(name: str, channels: int, hidden: int, batch: int) -> Workload:
    def build(library: Library) -> Any:
        nn = library.nn
        return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                             nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                             nn.Flatten(), nn.Linear(2 * channels * 7 * 7, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    return Workload(name, f"2 convolutions to {channels} and {2 * channels}, 2 linear, batch {batch} of 28 x 28",
                    build, _samples(batch, 1, 28, 28),
                    batch * _flops(28 * 28 * 9 * channels, 14 * 14 * 9 * channels * 2 * channels,
                                   2 * channels * 7 * 7 * hidden, hidden * 10))


def _samples(*shape: int) -> Callable[[np.random.Generator], Batch]:
    """Noise, and which of its first ten numbers is the largest."""

    def batch(stream: np.random.Generator) -> Batch:
        x = stream.standard_normal(shape, "float32")
        return x, x.reshape(shape[0], -1)[:, :10].argmax(1)

    return batch


# -- sequences

_STEPS, _CLASSES = 64, 64


def _recurrent(name: str, kind: str, hidden: int, batch: int) -> Workload:
    def build(library: Library) -> Any:
        nn = library.nn

        class Tagger(nn.Module):
            """Scores of a class at every step: (time, batch, features) -> (time * batch, classes)."""

            def __init__(self) -> None:
                super().__init__()
                self.layers = getattr(nn, kind)(hidden, hidden, num_layers=2)
                self.head = nn.Linear(hidden, _CLASSES)

            def forward(self, x: Any) -> Any:
                return self.head(self.layers(x)[0]).flatten(0, 1)

        return Tagger()

    def signals(stream: np.random.Generator) -> Batch:
        """Noise; the class is which of the features was largest one step before."""
        x = stream.standard_normal((_STEPS, batch, hidden), "float32")
        return x, np.roll(x[..., :_CLASSES].argmax(-1), 1, axis=0).reshape(-1)

    product = {"LSTM": 4, "GRU": 3}[kind] * hidden * hidden  # from features, or from the step before, to all gates
    return Workload(name, f"2 x {hidden}, batch {batch}, {_STEPS} steps", build, signals,
                    _STEPS * batch * _flops(product, product, 2 * product, hidden * _CLASSES))


# -- a language model

_VOCABULARY, HEADS = 256, 4


def _language_model(name: str, blocks: int, width: int, heads: int, texts: int, length: int) -> Workload:
    def build(library: Library) -> Any:
        nn, F = library.nn, library.functional

        class Block(nn.Module):
            """x + attention(norm(x)), then x + feed(norm(x)): (batch, length, width) to the same."""

            def __init__(self) -> None:
                super().__init__()
                self.norm1 = nn.LayerNorm(width)
                self.qkv = nn.Linear(width, 3 * width)
                self.out = nn.Linear(width, width)
                self.norm2 = nn.LayerNorm(width)
                self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

            def forward(self, x: Any) -> Any:
                n, length, width = x.shape
                q, k, v = (part.reshape(n, length, heads, width // heads).transpose(1, 2)
                           for part in self.qkv(self.norm1(x)).chunk(3, -1))
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + self.out(y.transpose(1, 2).reshape(n, length, width))
                return x + self.feed(self.norm2(x))

        class Transformer(nn.Module):
            """Scores of the next token at every place: (batch, length) -> (batch * length, vocabulary)."""

            def __init__(self) -> None:
                super().__init__()
                self.token = nn.Embedding(_VOCABULARY, width)
                self.position = nn.Embedding(length, width)
                self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])
                self.norm = nn.LayerNorm(width)
                self.head = nn.Linear(width, _VOCABULARY)

            def forward(self, x: Any) -> Any:
                y = self.token(x) + self.position(library.arange(x.shape[1]))
                return self.head(self.norm(self.blocks(y))).flatten(0, 1)

        return Transformer()

    def tokens(stream: np.random.Generator) -> Batch:
        """Each text goes up by a stride of its own, one in ten tokens is replaced; the class is the next token."""
        first, stride = stream.integers(_VOCABULARY, size=(texts, 1)), stream.integers(1, 9, (texts, 1))
        found = (first + stride * np.arange(length + 1)) % _VOCABULARY
        noise = stream.integers(_VOCABULARY, size=found.shape)
        found = np.where(stream.random(found.shape) < 0.1, noise, found)
        return np.ascontiguousarray(found[:, :-1]), found[:, 1:].reshape(-1)

    block = 12 * width * width + 2 * length * width  # four linear layers, and the two products of attention
    return Workload(name, f"{blocks} blocks of {width}, {heads} heads, batch {texts} x {length} tokens", build, tokens,
                    texts * length * _flops(0, blocks * block, width * _VOCABULARY))


def _named(*workloads: Workload) -> dict[str, Workload]:
    return {found.name: found for found in workloads}


WORKLOADS = _named(
    _perceptron("mlp", 512, 64),
    _perceptron("mlp_tiny", 32, 16),
    _perceptron("mlp_wide", 2048, 64),
    _recurrent("lstm", "LSTM", 256, 16),
    _recurrent("gru", "GRU", 256, 16),
    _language_model("gpt", 4, 128, HEADS, 8, 128),
    _convolutional("cnn", 32, 128, 32),
)
# They fill a GPU of 40 GB and 20 TFLOP/s: the largest, gpt, holds about 20 GB and computes for 0.4 s a step there.
# mlp_tiny is what it was: it asks what launching costs.
LARGE = _named(
    _perceptron("mlp", 4096, 1024),
    _perceptron("mlp_tiny", 32, 16),
    _perceptron("mlp_wide", 8192, 4096),
    _recurrent("lstm", "LSTM", 1024, 256),
    _recurrent("gru", "GRU", 1024, 256),
    _language_model("gpt", 12, 1024, 16, 8, 1024),
    _convolutional("cnn", 128, 1024, 1024),
)
SIZES = {"small": WORKLOADS, "large": LARGE}
