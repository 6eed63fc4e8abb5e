"""The measured models are what their descriptions say, and their twins in torch learn the same."""

from __future__ import annotations

import numpy as np
import pytest

import distgrad as dg
from distgrad.bench import step
from distgrad.bench.torch_workloads import library
from distgrad.bench.workloads import LARGE, OURS, SIZES, WORKLOADS
from distgrad.distributed import world

PARAMETERS = {"mlp": 669_706, "mlp_tiny": 26_506, "mlp_wide": 5_824_522, "lstm": 1_069_120, "gru": 805_952,
              "gpt": 875_520, "cnn": 421_642}
SAMPLES = {"mlp": 64, "mlp_tiny": 16, "mlp_wide": 64, "lstm": 16 * 64, "gru": 16 * 64, "gpt": 8 * 128, "cnn": 32}
CLASSES = {"lstm": 64, "gru": 64, "gpt": 256}


def test_every_workload_is_tested_here() -> None:
    assert list(PARAMETERS) == list(WORKLOADS) == list(SAMPLES)


@pytest.mark.parametrize("name", WORKLOADS)
def test_scores_of_every_sample(name: str) -> None:
    workload = WORKLOADS[name]
    model = workload.build(OURS)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    x, y = workload.batch(np.random.default_rng(0))
    assert x.dtype == (np.int64 if name == "gpt" else np.float32) and y.dtype == np.int64
    with dg.no_grad():
        scores = model(dg.from_numpy(x))
    assert tuple(scores.shape) == (SAMPLES[name], CLASSES.get(name, 10)) and scores.dtype == dg.float32
    assert y.shape == (SAMPLES[name],) and 0 <= y.min() and y.max() < CLASSES.get(name, 10)


@pytest.mark.parametrize("name", WORKLOADS)
def test_batches_follow_the_stream(name: str) -> None:
    stream = np.random.default_rng(5)
    first, second = WORKLOADS[name].batch(stream), WORKLOADS[name].batch(stream)
    again = WORKLOADS[name].batch(np.random.default_rng(5))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], second[0])


def test_the_language_model_does_not_look_ahead() -> None:
    model = WORKLOADS["gpt"].build(OURS)
    x, _ = WORKLOADS["gpt"].batch(np.random.default_rng(0))
    changed = x.copy()
    changed[:, 100:] = (changed[:, 100:] + 1) % 256
    with dg.no_grad():
        before, after = (model(dg.from_numpy(tokens)).reshape(8, 128, 256).numpy() for tokens in (x, changed))
    np.testing.assert_array_equal(before[:, :100], after[:, :100])
    assert not np.array_equal(before[:, 100], after[:, 100])


def test_large_ones_are_the_same_models() -> None:
    assert list(SIZES) == ["small", "large"] and list(LARGE) == list(WORKLOADS)
    assert LARGE["mlp_tiny"].text == WORKLOADS["mlp_tiny"].text
    assert all(LARGE[name].flops > 20 * WORKLOADS[name].flops for name in LARGE if name != "mlp_tiny")


def test_products_are_counted() -> None:
    layers = [784 * 512, 512 * 512, 512 * 10]  # two products a layer of the gradients, but none for the batch's
    assert WORKLOADS["mlp"].flops == 2 * 64 * (3 * sum(layers) - layers[0])
    step = 16 * 4 * 256 * 256  # of one layer of the LSTM, from its input or from the step before
    assert WORKLOADS["lstm"].flops == 2 * 64 * (2 * step + 3 * 3 * step + 3 * 16 * 256 * 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "mlp_wide", "gpt", "cnn"])
def test_torch_counts_the_same_products(name: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    workload, there = WORKLOADS[name], library(torch)
    model = workload.build(there)
    x, y = map(there.from_numpy, workload.batch(np.random.default_rng(0)))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.nn.functional.cross_entropy(model(x), y).backward()
    assert counter.get_total_flops() == workload.flops


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("peer", ["torch", "jax"])
def test_a_peer_has_the_same_losses(peer: str, name: str) -> None:
    pytest.importorskip(peer)
    race, = step.run(world(), [name], rounds=5, peers=[peer])
    ours, theirs = race.losses["distgrad"], race.losses[peer]
    assert len(ours) == len(theirs) == step._WARMUP + 5 * (step._LEAD + 1)
    assert theirs[0] != theirs[-1]
    assert race.differences[peer] < 1e-4
    assert race.clipped[peer] == race.clipped["distgrad"]
    assert [sample.name for sample in race.parts["total"]] == ["distgrad", peer] and not race.left_out
