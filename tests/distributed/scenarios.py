"""Training programs that other frameworks need flags for, each written once: for ranks, and for one process.

A scenario is a function of a Party, who may be one rank of several or a single process.
"""

# ruff: noqa: B023 - a loss is called before its loop goes on

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import distgrad
from distgrad import nn
from distgrad.nn import functional as F
from distgrad.utils.checkpoint import checkpoint, checkpoint_sequential
from tests.distributed.parties import Party, Together

WIDTH = 70  # a matrix of this width is more than one grid block: it crosses buckets and shares
ROWS = 2


def rows(rank: int, step: int, width: int = WIDTH) -> Any:
    """A rank's inputs at a step."""
    return distgrad.tensor(np.random.default_rng((step, rank)).standard_normal((ROWS, width)))


class Layers(nn.Module):
    """Layers side by side; forward says which of them it takes, one after the other."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(count)])

    def forward(self, x: Any, *which: int) -> Any:
        for i in which:
            x = self.layers[i](x).tanh()
        return x.square().mean()


def unused_on_one_rank(party: Party) -> None:
    model = party.model(Layers(2))
    party.adam(model.parameters())
    for step in range(3):
        party.step(lambda rank: model(rows(rank, step), *((0,) if rank == step % party.ranks else (0, 1))))


def unused_on_all_ranks(party: Party) -> None:
    """One layer is never used, another one at first only: then its momentum and its count of steps stand still."""
    model = party.model(Layers(3))
    party.adam(model.parameters())
    for step in range(4):
        party.step(lambda rank: model(rows(rank, step), *((0, 1) if step < 2 else (0,))))
        party.last_used([True, True, step < 2, step < 2, False, False])
    assert {4, 5}.isdisjoint(party.notes[-1]["steps"][0]), "no state for what was never used"
    assert [party.notes[-1]["steps"][0][i] for i in range(4)] == [4, 4, 2, 2]
    for still in range(2, 6):
        np.testing.assert_array_equal(party.notes[-1]["parameters"][still], party.notes[1]["parameters"][still])


def branches_per_rank_and_step(party: Party) -> None:
    """Which layers, how many and in which order: another choice on every rank and at every step."""
    model = party.model(Layers(4))
    party.adam(model.parameters())
    for step in range(5):
        def loss(rank: int) -> Any:
            choice = np.random.default_rng((7, step, rank))
            return model(rows(rank, step), *choice.permutation(4)[:choice.integers(1, 5)].tolist())

        party.step(loss)


def gan(party: Party) -> None:
    """Two models, two optimizers: what a generator's step leaves in the discriminator is thrown away."""
    generator = party.model(nn.Sequential(nn.Linear(8, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH)))
    discriminator = party.model(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1)))
    for_generator, for_discriminator = party.adam(generator.parameters()), party.adam(discriminator.parameters())
    real, fake = distgrad.ones(ROWS, 1).double(), distgrad.zeros(ROWS, 1).double()
    judge = F.binary_cross_entropy_with_logits
    for step in range(4):
        def judged(rank: int) -> Any:
            made = generator(rows(rank, step, 8))
            return judge(discriminator(rows(rank, step)), real) + judge(discriminator(made.detach()), fake)

        discriminator.zero_grad()
        party.backward(judged)
        nn.utils.clip_grad_norm_(discriminator.parameters(), 0.5)
        for_discriminator.step()
        party.note()
        generator.zero_grad()
        party.backward(lambda rank: judge(discriminator(generator(rows(rank, step, 8))), real))
        nn.utils.clip_grad_norm_(generator.parameters(), 0.5)
        for_generator.step()
        party.note()


def gan_in_two_backwards(party: Party) -> None:
    """The same with the real and the fake half in a backward each, the fakes computed once for both models."""
    generator = party.model(nn.Linear(8, WIDTH))
    discriminator = party.model(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)))
    for_generator, for_discriminator = party.adam(generator.parameters()), party.adam(discriminator.parameters())
    for step in range(3):
        fakes: dict[int, Any] = {}

        def fake(rank: int) -> Any:
            fakes[rank] = generator(rows(rank, step, 8))
            return discriminator(fakes[rank].detach()).square().mean()

        for_generator.zero_grad()
        for_discriminator.zero_grad()
        party.backward(lambda rank: (discriminator(rows(rank, step)) - 1).square().mean())
        party.backward(fake)
        for_discriminator.step()
        party.note()
        discriminator.zero_grad()
        party.backward(lambda rank: (discriminator(fakes[rank]) - 1).square().mean())
        for_generator.step()
        party.note()


class Pair(nn.Module):
    """A generator and a discriminator; it has no forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 1)


def one_model_two_optimizers(party: Party) -> None:
    """A GAN wrapped as a whole, of which each step uses, and each optimizer updates, a part."""
    model = party.model(Pair())
    pair = model.module
    for_generator, for_discriminator = (party.adam(part.parameters()) for part in (pair.generator, pair.discriminator))
    for step in range(3):
        for_discriminator.zero_grad()
        party.backward(lambda rank: (pair.discriminator(pair.generator(rows(rank, step, 8)).detach()) ** 2).mean())
        nn.utils.clip_grad_norm_(pair.discriminator.parameters(), 0.1)
        for_discriminator.step()
        party.note()
        party.last_used([step > 0, step > 0, True, True])
        for_generator.zero_grad()
        party.backward(lambda rank: (pair.discriminator(pair.generator(rows(rank, step, 8))) - 1).square().mean())
        nn.utils.clip_grad_norm_(pair.generator.parameters(), 0.1)
        for_generator.step()
        party.note()


def two_forwards_before_one_backward(party: Party) -> None:
    model = party.model(Layers(3))
    party.adam(model.parameters())
    for step in range(3):
        party.step(lambda rank: (model(rows(rank, step), 0, 1) - model(rows(rank, step + 50), 0, 2)).square())


def one_model_or_the_other(party: Party) -> None:
    """Two models run forward on every rank; which of them a rank's loss depends on, differs."""
    first, second = party.model(Layers(1)), party.model(Layers(2))
    party.adam(first.parameters())
    party.adam(second.parameters())
    for step in range(3):
        party.step(lambda rank: (first(rows(rank, step), 0), second(rows(rank, step), 1, 0))[(rank + step) % 2])


def several_backwards_before_a_step(party: Party) -> None:
    """They add up: other inputs, other layers, and one graph that is gone through twice."""
    model = party.model(Layers(3))
    party.adam(model.parameters())
    for step in range(3):
        graphs: dict[int, Any] = {}

        def kept(rank: int) -> Any:
            graphs[rank] = model(rows(rank, step), 0, 1)
            return graphs[rank]

        model.zero_grad()
        party.backward(kept, retain_graph=True)
        party.backward(lambda rank: model(rows(rank, step + 50), 0, 2))
        party.backward(lambda rank: graphs[rank])
        party.update()


class Recomputed(nn.Module):
    """A part that is computed again in backward, around another one, and a chain in segments; some parameters
    serve both inside and outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.chain = nn.Sequential(nn.Linear(WIDTH, 30), nn.Tanh(), nn.Linear(30, WIDTH), nn.Tanh())

    def forward(self, x: Any) -> Any:
        h = checkpoint(lambda x: self.b(checkpoint(lambda x: self.a(x).tanh(), x)).tanh(), x)
        return checkpoint_sequential(self.chain, 2, self.a(h)).square().mean()


def checkpointed_layers(party: Party) -> None:
    model = party.model(Recomputed())
    party.adam(model.parameters())
    for step in range(3):
        party.step(lambda rank: model(rows(rank, step).requires_grad_(step == 1)))


def parameters_used_outside_of_forward(party: Party) -> None:
    """A penalty on weights in the loss; a head that uses a layer's weight; steps without any forward."""
    model = party.model(Layers(2))
    party.adam(model.parameters())
    for step in range(4):
        def loss(rank: int) -> Any:
            first, second = (model.module.layers[i].weight for i in range(2))
            if step == 2:
                return F.linear(rows(rank, step), first).square().mean() * (rank + 1)
            if step == 3:  # only the penalty
                return second.square().sum() * (rank + 1)
            return model(rows(rank, step), 0) + F.linear(rows(rank, step), first.T).mean() + second.abs().sum() * rank

        party.step(loss)


def frozen_and_thawed(party: Party) -> None:
    """Layers whose requires_grad changes while training; a layer may also be frozen from the beginning."""
    module = Layers(3)
    module.layers[0].requires_grad_(False)
    model = party.model(module)
    party.adam(model.parameters())
    for step in range(6):
        for i, layer in enumerate(model.module.layers):
            layer.requires_grad_((step + i) % 3 != 0)
        party.step(lambda rank: model(rows(rank, step), 0, 1, 2))
        party.last_used([(step + i) % 3 != 0 for i in range(3) for _ in range(2)])


class Tied(nn.Module):
    """An embedding whose matrix is the head's as well, and one layer that is applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(90, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 90, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Any) -> Any:
        h = self.layer(self.layer(self.embedding(x)).tanh())
        return F.cross_entropy(self.head(h), x + 1)


def tied_weights(party: Party) -> None:
    model = party.model(Tied())
    assert len(list(model.parameters())) == 3
    party.adam(model.parameters())
    for step in range(3):
        party.step(lambda rank: model(distgrad.tensor(np.random.default_rng((step, rank)).integers(0, 89, ROWS))))


def gradient_penalty(party: Party) -> None:
    """The norm of the gradient to the inputs is part of the loss: a backward through a backward."""
    model = party.model(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1, bias=False)))
    party.adam(model.parameters())
    for step in range(3):
        def loss(rank: int) -> Any:
            x = rows(rank, step).requires_grad_()
            (slope,) = distgrad.autograd.grad(model(x).sum(), [x], create_graph=True)
            return ((slope.square().sum(1).sqrt() - 1) ** 2).mean() + model(rows(rank, step + 50)).mean()

        party.step(loss)


def only_some_leaves(party: Party) -> None:
    """backward(inputs=...): what is not named gets nothing, and keeps what it had."""
    model = party.model(Layers(2))
    party.adam(model.parameters())
    for step in range(3):
        model.zero_grad()
        first, second = ([*model.module.layers[i].parameters()] for i in range(2))
        party.backward(lambda rank: model(rows(rank, step), 0, 1), inputs=first)
        if step < 2:
            party.backward(lambda rank: model(rows(rank, step + 50), 1, 0), inputs=second[:1])
        party.update()
        assert (3.0 in party.notes[-1]["steps"][0].values()) == (step == 2)


class Odd(nn.Module):
    """Parameters without elements, without dimensions, as large as a grid block, transposed, and with gaps."""

    def __init__(self) -> None:
        super().__init__()
        stream = np.random.default_rng(0)
        self.empty = nn.Parameter(distgrad.zeros(0, 3))
        self.block = nn.Parameter(distgrad.tensor(stream.standard_normal((64, 64))))
        self.scalar = nn.Parameter(distgrad.tensor(0.5))
        self.turned = nn.Parameter(distgrad.from_numpy(stream.standard_normal((70, 64)).T))
        self.gaps = nn.Parameter(distgrad.from_numpy(stream.standard_normal(140)[::2]))

    def forward(self, x: Any) -> Any:
        h = (x @ self.turned.T @ self.block @ self.turned + self.gaps).tanh() * self.scalar
        return h.square().mean() + self.empty.sum()


def odd_parameters(party: Party) -> None:
    model = party.model(Odd())
    full = party.model(nn.ParameterList([nn.Parameter(distgrad.zeros(0)), nn.Parameter(distgrad.ones(64, 64))]))
    party.adam(model.parameters())
    party.adam(full.parameters())
    for step in range(3):
        party.step(lambda rank: model(rows(rank, step)) + (full.module[1] * (rank + 1)).sum() + full.module[0].sum())


SCENARIOS: dict[str, Callable[[Party], None]] = {scenario.__name__.replace("_", " "): scenario for scenario in (
    unused_on_one_rank, unused_on_all_ranks, branches_per_rank_and_step, gan, gan_in_two_backwards,
    one_model_two_optimizers, one_model_or_the_other, two_forwards_before_one_backward,
    several_backwards_before_a_step, checkpointed_layers,
    parameters_used_outside_of_forward, frozen_and_thawed, tied_weights, gradient_penalty, only_some_leaves,
    odd_parameters)}
# A sharded optimizer takes all parameters of a model.
REPLICATED = ("one model two optimizers",)


def play(name: str, party: Any) -> list[dict[str, Any]]:
    """What a party noted in a scenario."""
    distgrad.manual_seed(5)
    SCENARIOS[name](party)
    if isinstance(party, Together):
        party.close()
    return list(party.notes)
