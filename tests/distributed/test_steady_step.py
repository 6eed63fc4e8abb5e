"""A steady step on a device moves the batch to it, and nothing back: counted on the strict device.

Clip and optimizer queue their work; what is counted besides the batch is explained by each number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import optim
from distgrad.backend.strict import transfers
from distgrad.distributed import DataParallel
from distgrad.nn.utils import clip_grad_norm_
from tests.steady import FAMILIES, Step

pytestmark = pytest.mark.skipif("config.getoption('--device') == 'standin'", reason="whose arrays are strict ones")
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "adam": lambda p: optim.Adam(p, lr=1e-2),
    "amsgrad": lambda p: optim.AdamW(p, lr=1e-2, amsgrad=True, maximize=True),
    "sgd": lambda p: optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2, maximize=True),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-2, momentum=0.5, centered=True),
}
WAYS = {"one process": lambda module: module, "DataParallel": DataParallel}


def moved(step: Step, steps: int = 2) -> dict[str, int]:
    """What each of the later steps moves."""
    for _ in range(2):
        step()
    found = []
    for _ in range(steps):
        transfers.reset()
        step()
        found.append({name: value for name, value in asdict(transfers).items() if not name.startswith("bytes")})
    assert all(each == found[0] for each in found), found
    return found[0]


@pytest.mark.parametrize("look", [False, True], ids=["", "gradients looked at"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_steady_step_moves_its_batch_alone(family: str, way: str, look: bool) -> None:
    step = Step(family, OPTIMIZERS["adam"], WAYS[way], device="strict", look=look)
    kind = step.family
    assert moved(step) == {"from_host": 2 + kind.drops, "to_host": 0, "scalars": 2 * kind.checks}  # least and largest


@pytest.mark.parametrize("family", ["mlp", "wide", "gpt"])
def test_a_weighted_step_of_one_process_moves_its_batch_alone(family: str) -> None:
    step = Step(family, OPTIMIZERS["adam"], DataParallel, device="strict", weight=4)
    kind = step.family
    assert moved(step) == {"from_host": 2 + kind.drops, "to_host": 0, "scalars": 2 * kind.checks}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_weighted_steps_of_one_process_mean_what_they_do_on_the_host(dtype: str) -> None:
    found = []
    for device in ("cpu", "strict"):
        dg.manual_seed(0)
        model = DataParallel(FAMILIES["wide"].make().to(device).to(dtype))
        optimizer = optim.SGD(model.parameters(), lr=0.5)
        stream = np.random.default_rng(0)
        for weights in ((3, 1), (2,), (1, 0, 5)):
            optimizer.zero_grad()
            transfers.reset()
            for weight in weights:
                x, target = FAMILIES["wide"].batch(stream)
                given = dg.tensor(x.astype(dtype), device=device), dg.tensor(target, device=device)
                model.backward(FAMILIES["wide"].loss(model(given[0]), given[1]), weight)
            assert device == "cpu" or (transfers.to_host, transfers.from_host) == (0, 2 * len(weights))
            clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        found.append([p.detach().cpu().numpy() for p in model.parameters()])
    for mine, theirs in zip(found[1], found[0], strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, theirs, rtol=8 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_takes_a_factor_that_nobody_reads(optimizer: str, way: str) -> None:
    step = Step("mlp", OPTIMIZERS[optimizer], WAYS[way], device="strict")
    assert moved(step) == {"from_host": 2, "to_host": 0, "scalars": 2}
    host = Step("mlp", OPTIMIZERS[optimizer], WAYS[way], device="cpu")
    norms = [host().item() for _ in range(4)]
    assert max(norms) > host.max_norm  # there was something to clip
    for found, expected in zip(step.parameters(), host.parameters(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("look", [False, True], ids=["", "gradients looked at"])
@pytest.mark.parametrize(("family", "several"), [("gpt", False), ("wide", True)])
def test_ranks_exchange_their_buckets_and_nothing_else(family: str, several: bool, look: bool) -> None:
    ranks = 3

    def body(rank: int) -> tuple[list[np.ndarray], list[float], int]:
        step = Step(family, OPTIMIZERS["adam"], lambda module: DataParallel(module, bucket_bytes=1),
                    device="strict", look=look, seed=rank)
        norms = [step()]
        step.model.comm.barrier()
        if rank == 0:
            transfers.reset()
        step.model.comm.barrier()
        norms += [step(), step()]
        step.model.comm.barrier()
        counted = asdict(transfers)
        step.model.comm.barrier()
        buckets = len(step.model._reducer.buckets)
        kind = step.family
        assert counted["to_host"] == ranks * 2 * buckets
        assert counted["from_host"] == ranks * 2 * (buckets + 2 + kind.drops)
        assert counted["scalars"] == ranks * 2 * 2 * kind.checks
        return step.parameters(), [norm.item() for norm in norms], buckets

    found = dg.simulate(ranks)(body)
    assert (found[0][2] > 1) == several
    for parameters, norms, _ in found:
        assert norms == found[0][1] and max(norms) > 0.1
        for mine, theirs in zip(parameters, found[0][0], strict=True):
            np.testing.assert_array_equal(mine, theirs)
