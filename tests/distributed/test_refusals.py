"""What cannot be done is refused on every rank, in words that say what to do, and nobody is left waiting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn
from distgrad.distributed import DataParallel, mean_hook
from distgrad.errors import CollectiveMismatchError, RankFailedError
from distgrad.nn.utils import clip_grad_norm_
from tests.distributed.models import flat
from tests.distributed.outcomes import (
    RANKS,
    all_are,
    impatience,
    last_words,
    only_rank_1_is_guilty,
    outcomes,
    over,
    wrap,
)


@pytest.fixture(autouse=True)
def nobody_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    impatience(monkeypatch)


# -- models that differ


class Named(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(2, 2))


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


# What rank 1 has where the others have nn.Linear(2, 2), and what is said of it.
OTHERS: dict[str, tuple[Callable[[bool], nn.Module], list[str]]] = {
    "one layer more": (lambda other: nn.Sequential(*[nn.Linear(2, 2) for _ in range(2 + other)]),
                       ["rank 0 has 4 parameters", "rank 1 has 6", "'2.weight'"]),
    "one layer less": (lambda other: nn.Sequential(*[nn.Linear(2, 2) for _ in range(2 - other)]), ["'1.weight'"]),
    "another name": (lambda other: Named("b" if other else "a"), ["'a.weight'", "'b.weight'"]),
    "another order": (lambda other: Named(*("ba" if other else "ab")), ["'a.weight'", "'b.weight'"]),
    "another shape": (lambda other: nn.Linear(2, 2 + other), ["'weight' (shape (2, 2)", "'weight' (shape (3, 2)"]),
    "another dtype": (lambda other: nn.Linear(2, 2).double() if other else nn.Linear(2, 2), ["float32", "float64"]),
    "a frozen part": (lambda other: frozen(nn.Linear(2, 2)) if other else nn.Linear(2, 2), ["frozen"]),
    "a bias less": (lambda other: nn.Linear(2, 2, bias=not other), ["'bias'"]),
    "another buffer": (lambda other: nn.BatchNorm1d(3 + other, affine=False), ["'running_mean' (shape (3,)"]),
    "a buffer less": (lambda other: nn.BatchNorm1d(3, track_running_stats=not other), ["'running_mean'"]),
}


@pytest.mark.parametrize("what", sorted(OTHERS))
def test_models_that_differ(what: str) -> None:
    make, words = OTHERS[what]
    all_are(outcomes(lambda rank: DataParallel(make(rank == 1))), CollectiveMismatchError,
            f"DataParallel({type(make(False)).__name__})", "rank 0", "rank 1", *words)


@pytest.mark.parametrize("options", [{"bucket_bytes": 1}, {"hook": mean_hook}, {"buffers": "local"},
                                     {"transport": "mpi"}], ids=lambda options: next(iter(options)))
def test_options_that_differ(options: dict[str, Any]) -> None:
    all_are(outcomes(lambda rank: DataParallel(nn.BatchNorm1d(2), **(options if rank == 1 else {}))),
            CollectiveMismatchError, "rank 1")


@pytest.mark.parametrize(("module", "options", "kind"), [
    (3, {}, TypeError), (nn.Linear(1, 1), {"transport": "tcp"}, ValueError),
    (nn.Linear(1, 1), {"bucket_bytes": -1}, ValueError), (nn.Linear(1, 1), {"comm": "world"}, TypeError),
])
def test_arguments_that_are_wrong_on_one_rank(module: Any, options: dict[str, Any], kind: type[Exception]) -> None:
    found = last_words(lambda rank: DataParallel(module if rank == 1 else nn.Linear(1, 1),
                                                 **(options if rank == 1 else {})))
    only_rank_1_is_guilty(found, kind)


def test_a_device_that_is_not_here() -> None:
    all_are(outcomes(lambda rank: DataParallel(nn.Linear(2, 2).to("cuda"))), RuntimeError, "cuda")
    all_are(outcomes(lambda rank: DataParallel(nn.Linear(2, 2, device="cuda"))), RuntimeError, "cuda")


# -- losses and weights


@over
def test_a_loss_that_does_not_depend_on_the_model(transport: str) -> None:
    def body(rank: int, strangers: tuple[int, ...]) -> None:
        model = wrap(nn.Linear(2, 1), transport)
        stranger = distgrad.ones(1, requires_grad=True)
        model.backward(stranger.sum() if rank in strangers else model(distgrad.ones(1, 2)).sum())

    all_are(outcomes(lambda rank: body(rank, (0, 1, 2))), RuntimeError, "DataParallel(Linear)", "does not depend")
    only_rank_1_is_guilty(outcomes(lambda rank: body(rank, (1,))), RuntimeError, "does not depend")


@over
@pytest.mark.parametrize("weight", [-1, -0.5, math.nan, math.inf, -math.inf, "many", None, [1, 2], 1j])
def test_weights_that_are_none(weight: Any, transport: str) -> None:
    def body(rank: int, guilty: tuple[int, ...]) -> None:
        model = wrap(nn.Linear(2, 1), transport)
        model.backward(model(distgrad.ones(1, 2)).sum(), weight=weight if rank in guilty else 1)

    kind = ValueError if isinstance(weight, (int, float)) else TypeError
    all_are(outcomes(lambda rank: body(rank, (0, 1, 2))), kind, "weight is")
    only_rank_1_is_guilty(last_words(lambda rank: body(rank, (1,))), kind, "weight is")


@over
def test_no_loss_with_a_weight(transport: str) -> None:
    all_are(outcomes(lambda rank: wrap(nn.Linear(2, 1), transport).backward(None)), ValueError, "the weight is 0")


@over
def test_a_loss_of_several_elements(transport: str) -> None:
    """Its backward would be that of a sum, and the weight would count once for each element."""
    def body(rank: int, guilty: tuple[int, ...]) -> None:
        model = wrap(nn.Linear(2, 1), transport)
        losses = model(distgrad.ones(3, 2))
        model.backward(losses if rank in guilty else losses.mean())

    all_are(outcomes(lambda rank: body(rank, (0, 1, 2))), RuntimeError, "(3, 1)")
    found = last_words(lambda rank: body(rank, (1,)))
    all_are(found[1:2], RuntimeError, "(3, 1)")
    all_are(found[:1] + found[2:], RankFailedError, "rank 1")


@over
@pytest.mark.parametrize("first", ["plain", "weighted"])
def test_plain_and_weighted_backwards_mixed(first: str, transport: str) -> None:
    """Refused before anything is added, and the model is as good as new after zero_grad()."""
    def body(rank: int, guilty: tuple[int, ...]) -> Any:
        model = wrap(nn.Linear(2, 1), transport)

        def backward(weighted: bool) -> None:
            loss = model(distgrad.full((1, 2), float(rank))).sum()
            model.backward(loss, weight=2) if weighted else loss.backward()

        backward(first == "weighted")
        found: Any = None
        try:
            backward((first == "weighted") != (rank in guilty))
        except RuntimeError as error:
            found = error
        model.zero_grad()
        backward(first != "weighted")
        np.testing.assert_allclose(model.weight.grad, (RANKS - 1) / 2)
        return found

    all_are(outcomes(lambda rank: body(rank, (0, 1, 2))), RuntimeError, "mixed", "zero_grad()")
    found = outcomes(lambda rank: body(rank, (1,)))
    all_are(found[1:2], RuntimeError, "mixed")
    all_are(found[:1] + found[2:], RankFailedError, "rank 1", "mixed")


@over
def test_clipping_before_the_reduction(transport: str) -> None:
    def body(rank: int, weighted: bool) -> None:
        model = wrap(nn.Linear(2, 1), transport)
        with model.no_sync():
            loss = model(distgrad.full((1, 2), float(rank))).sum()
            model.backward(loss, weight=2) if weighted else loss.backward()
        before = flat(model, grad=True)
        for p, parameters in itertools.product((1.0, 2.0, math.inf), ([*model.parameters()], [model.bias])):
            with pytest.raises(RuntimeError, match="no_sync"):
                clip_grad_norm_(parameters, 1e-3, norm_type=p)
        np.testing.assert_array_equal(flat(model, grad=True), before)
        clip_grad_norm_(model.parameters(), 1e-3)

    for weighted in (False, True):
        all_are(outcomes(lambda rank, weighted=weighted: body(rank, weighted)), RuntimeError,
                "clip_grad_norm_", "DataParallel(Linear)", "no_sync()")


@over
def test_a_graph_that_is_gone(transport: str) -> None:
    def body(rank: int, guilty: tuple[int, ...]) -> None:
        model = wrap(nn.Linear(2, 1), transport)
        loss = model(distgrad.ones(1, 2)).sum()
        loss.backward()
        other = model(distgrad.ones(1, 2)).sum()
        (loss if rank in guilty else other).backward()

    all_are(outcomes(lambda rank: body(rank, (0, 1, 2))), RuntimeError, "retain_graph=True")
    only_rank_1_is_guilty(outcomes(lambda rank: body(rank, (1,))), RuntimeError, "retain_graph=True")


# -- backwards that raise


@over
def test_a_backward_that_raises_before_it_reaches_the_model(transport: str) -> None:
    """Which uses a parameter directly, so that no forward has told that it takes part."""
    def body(rank: int) -> Any:
        model = wrap(nn.Linear(2, 1), transport)

        def hook(_g: Any) -> None:
            raise KeyError("mine")

        penalty = model.module.weight.square().sum()
        if rank == 1:
            penalty.register_hook(hook)
        penalty.backward()

    only_rank_1_is_guilty(outcomes(body), KeyError, "mine")


@over
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_of_a_backward_that_raised_joins_the_next_step(transport: str, weighted: bool) -> None:
    """Neither of it, nor of those that were reduced before it, once gradients are forgotten."""
    def body(rank: int) -> Any:
        model = wrap(nn.Linear(2, 1, bias=False), transport)

        def backward(scale: float, fails: bool = False) -> None:
            y = model(distgrad.full((1, 2), scale * rank))
            if fails:
                y.register_hook(lambda _g: 1 / 0)
            model.backward(y.sum(), weight=2) if weighted else y.sum().backward()

        backward(3.0)
        with pytest.raises((ZeroDivisionError, RankFailedError), match="division"):
            backward(5.0, fails=rank == 1)
        model.zero_grad()
        backward(7.0)
        return model.weight.grad[0, 0].item()

    assert outcomes(body) == [7.0] * RANKS


@over
@pytest.mark.parametrize("where", ["on a parameter", "after accumulation", "on an output"])
def test_a_hook_of_autograd_that_raises_on_one_rank(where: str, transport: str) -> None:
    """In the midst of a backward whose first buckets have left; the next backward is as good as any."""
    def body(rank: int) -> Any:
        distgrad.manual_seed(0)
        model = wrap(nn.Sequential(*[nn.Linear(70, 70) for _ in range(3)]), transport, bucket_bytes=1)
        first = model.module[0]

        def hook(*_: Any) -> None:
            raise KeyError("mine")

        h = model.module[1](first(distgrad.ones(1, 70)))
        if rank == 1:
            handle = {"on a parameter": first.weight.register_hook, "on an output": h.register_hook,
                      "after accumulation": first.bias.register_post_accumulate_grad_hook}[where](hook)
        found = None
        try:
            model.module[2](h).sum().backward()
        except Exception as error:
            found = error
        if rank == 1:
            handle.remove()
        model.zero_grad()
        model(distgrad.full((1, 70), float(rank))).sum().backward()
        assert clip_grad_norm_(model.parameters(), 1e9, error_if_nonfinite=True).item() > 0
        return found, flat(model, grad=True)

    results = outcomes(body)
    only_rank_1_is_guilty([error for error, _ in results], KeyError, "mine")
    for _, gradients in results:
        np.testing.assert_array_equal(gradients, results[0][1])
