"""A steady step on a GPU moves its batch there, nothing back, and waits for nothing: counted over a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distgrad import backend, nn, optim
from distgrad.distributed import DataParallel
from tests.gpu.counting import counted
from tests.steady import FAMILIES, Step

pytestmark = pytest.mark.skipif("config.getoption('--device') != 'standin'", reason="counts calls of the stand-in")
WAYS: dict[str, Callable[[Any], Any]] = {"one process": lambda module: module, "DataParallel": DataParallel}


def adam(parameters: Any) -> Any:
    return optim.Adam(parameters, lr=1e-2)


def test_every_way_is_counted() -> None:
    gpu = backend.get("cuda")
    with counted() as found:
        array = gpu.from_host(np.ones(2))
        gpu.xp.asarray(3.0)
        gpu.fill_from_host(array, np.zeros(2))
        gpu.to_host(array)
        assert not bool(array[0])
        array[1].item()
        before = found["waits"]  # a copy to the host waits, or returns when it has ended
        gpu.synchronize()
    assert found == {"to device": 3, "to host": 1, "values": 2, "waits": before + 1}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("family", "look"), [*((family, False) for family in FAMILIES), ("mlp", True)])
def test_a_steady_step_moves_its_batch_alone(family: str, look: bool, way: str) -> None:
    step = Step(family, adam, WAYS[way], device="cuda", look=look)
    step()
    with counted() as found:
        norm = step()
    assert found == {"to device": 2}  # dropout's numbers are made there, and indices are not asked about
    assert norm.device.type == "cuda" and norm.item() > 0


def test_a_weighted_step_of_one_process_moves_its_batch_alone() -> None:
    step = Step("mlp", adam, DataParallel, device="cuda", weight=4)
    step()
    with counted() as found:
        step()
    assert found == {"to device": 2}


@pytest.mark.parametrize("way", WAYS)
def test_many_parameters_are_clipped_and_updated_by_few_launches(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from distgrad.backend.gpu.kernels import many

    launched: list[str] = []
    kernel = many.kernel

    def noted(family: str, name: str, dtype: Any) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            launched.append(name)
            kernel(family, name, dtype)(*args)

        return launch

    monkeypatch.setattr(many, "kernel", noted)
    model = WAYS[way](nn.Sequential(*[nn.Linear(3, 3) for _ in range(40)]))  # 80 parameters
    optimizer = adam(model.parameters())
    for _ in range(2):
        for p in model.parameters():
            p.grad = p.detach() * 2
        launched.clear()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    together = way == "DataParallel"  # in flat memory gradients are one array, and the factor waits for the update
    expected = ["squares", "norm_from", "clip_factor"] if together else \
        ["squares", "squares", "norm_from", "clip_factor", "multiply", "multiply"]
    assert launched == expected + ["adam"] * 2
