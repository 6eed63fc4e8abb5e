"""Parameters that may not be written, or not be put elsewhere: on no rank, and in no way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad
from distgrad import nn, optim
from distgrad.distributed import ZeroRedundancyOptimizer, world
from distgrad.nn.utils import parameters_to_vector, vector_to_parameters
from tests.distributed.models import flat
from tests.distributed.outcomes import RANKS, all_are, impatience, outcomes, over, wrap


@pytest.fixture(autouse=True)
def nobody_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    impatience(monkeypatch)


def written(p: Any) -> dict[str, Callable[[], Any]]:
    """Ways to write to a parameter without asking."""
    def assign(target: Any, key: Any = ...) -> None:
        target[key] = 7.0

    array = p.detach().numpy()
    return {
        "p.mul_": lambda: p.mul_(2), "p.add_": lambda: p.add_(1), "p.copy_": lambda: p.copy_(distgrad.zeros(*p.shape)),
        "p.zero_": lambda: p.zero_(), "p[...] =": lambda: assign(p), "p[0] =": lambda: assign(p, 0),
        "p *=": lambda: p.__imul__(2), "p.data[...] =": lambda: assign(p.data),
        "p.data[0] =": lambda: assign(p.data, 0), "p.data.mul_": lambda: p.data.mul_(2),
        "p.data.copy_": lambda: p.data.copy_(distgrad.zeros(*p.shape)),
        "a view": lambda: p.view(-1).zero_(), "a row": lambda: p[0].fill_(7.0), "the transpose": lambda: p.T.zero_(),
        "nn.init": lambda: nn.init.ones_(p), "detach": lambda: p.detach().fill_(7.0),
        "a vector": lambda: vector_to_parameters(parameters_to_vector([p.detach() + 1]), [p]),
        "numpy": lambda: assign(array), "a numpy view": lambda: assign(array.reshape(-1)[3:5]),
        "numpy's out": lambda: np.add(array, 1, out=array), "asarray": lambda: assign(np.asarray(p.detach())),
        "dlpack": lambda: assign(np.from_dlpack(p.detach())),
    }


@over
@pytest.mark.parametrize("ranks", [1, RANKS])
def test_writing_to_sharded_parameters(transport: str, ranks: int) -> None:
    """In no way. A write to the parameter itself names the way that there is; views and arrays are read-only."""
    def body(rank: int) -> None:
        distgrad.manual_seed(rank)
        model = wrap(nn.Linear(130, 70), transport)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.Adam, lr=0.1)
        before = flat(model)
        for way, write in written(model.weight).items():
            with distgrad.no_grad(), pytest.raises((RuntimeError, ValueError), match=r"read-only|writable") as caught:
                write()
            assert type(caught.value) is (ValueError if "numpy" in way or way in ("asarray", "dlpack") else
                                          RuntimeError), way
            if way.startswith("p") and not way.startswith("p.data"):
                assert "writable" in str(caught.value) and "DataParallel(Linear)" in str(caught.value), way
            np.testing.assert_array_equal(flat(model), before, err_msg=way)
        with pytest.raises(RuntimeError, match="writable"):
            model.load_state_dict({"weight": distgrad.zeros(70, 130), "bias": distgrad.zeros(70)})
        np.testing.assert_array_equal(flat(model), before)
        world().barrier()  # the others have looked, too
        with optimizer.writable(), distgrad.no_grad():
            model.weight.fill_(float(rank))
            model.bias.data[...] = 9.0
        assert set(np.unique(model.weight.detach().numpy())) == set(map(float, range(ranks)))
        np.testing.assert_array_equal(model.bias.detach(), 9.0)
        with distgrad.no_grad(), pytest.raises(RuntimeError, match="writable"):
            model.weight.mul_(2)
        model(distgrad.ones(1, 130)).sum().backward()
        optimizer.step()
        assert (flat(model) != before).any()

    assert outcomes(body, ranks) == [None] * ranks


@over
@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_rebinding_the_data_of_a_wrapped_parameter(transport: str, sharded: bool) -> None:
    def body(rank: int) -> None:
        model = wrap(nn.Linear(2, 3), transport)
        if sharded:
            ZeroRedundancyOptimizer(model.parameters(), optim.Adam)
        before = flat(model)
        for value in (distgrad.ones(3, 2), distgrad.ones(4, 4), distgrad.ones(3, 2).double()):
            with pytest.raises(RuntimeError, match=r"'weight' \(shape \(3, 2\)\).*DataParallel\(Linear\)"):
                model.weight.data = value
        np.testing.assert_array_equal(flat(model), before)
        model.weight.data = distgrad.ones(3, 2)

    all_are(outcomes(body), RuntimeError, ".data", "copy_")


@over
def test_an_ordinary_optimizer_on_sharded_parameters(transport: str) -> None:
    def body(rank: int) -> None:
        model = wrap(nn.Linear(130, 70), transport)
        ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1)
        model(distgrad.ones(1, 130)).sum().backward()
        before = flat(model)
        try:
            optim.SGD(model.parameters(), lr=0.1).step()
        finally:
            np.testing.assert_array_equal(flat(model), before)

    for error in outcomes(body):
        assert isinstance(error, (RuntimeError, ValueError)) and "read-only" in str(error) + "read-only" * (
            "writable" in str(error)), error
