"""NCCL's calls as the backend makes them, by one rank alone: on one real device, or over the stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from distgrad import backend
from distgrad.errors import CommError
from tests.gpu import standin_nccl

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cuda', 'standin')",
                                reason="needs a CUDA device: --device cuda")


@pytest.fixture
def alone(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The collectives of a world of one."""
    standin = request.config.getoption("--device") == "standin"
    gpu = backend.get("cuda")
    with standin_nccl.installed(1) if standin else nullcontext():
        if why := gpu.why_no_collectives():
            pytest.skip(why)
        yield gpu.collectives(gpu.collective_id(), 0, 1)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("kind", ["float32", "float64", "complex64", "complex128"])
def test_all_reduce(alone: Any, kind: str, mean: bool) -> None:
    gpu = backend.get("cuda")
    values = np.arange(10_000).astype(kind) * (1 + 2j if kind.startswith("complex") else 3)
    array = gpu.from_host(np.zeros_like(values))
    array += gpu.from_host(values)
    alone.all_reduce(array[5:9_000], mean)
    alone.wait()
    doubled = gpu.to_host(gpu.xp.multiply(array, 2))
    np.testing.assert_array_equal(doubled, values * 2)
    alone.check()
    assert alone.done and alone.usable
    alone.close()
    assert not alone.usable


@pytest.mark.parametrize("owned", [[[(0, 100)]], [[(0, 10), (20, 100)]], [[]]])
@pytest.mark.parametrize("kind", ["float16", "float64", "bool"])
def test_all_gather(alone: Any, kind: str, owned: Any) -> None:
    gpu = backend.get("cuda")
    values = np.arange(100).astype(kind)
    array = gpu.from_host(values)
    alone.all_gather(array, owned)
    alone.wait()
    np.testing.assert_array_equal(gpu.to_host(array), values)
    alone.check()
    alone.abort()
    alone.abort()


def test_what_is_refused(alone: Any) -> None:
    xp = backend.get("cuda").xp
    with pytest.raises(TypeError, match="in float32 or float64, not in float16"):
        alone.all_reduce(xp.ones(4, "float16"))
    with pytest.raises(ValueError, match="not contiguous"):
        alone.all_reduce(xp.ones((4, 4), "float32").T[:2])
    alone.close()
    array = xp.ones(4, "float32")
    for call in (alone.check, lambda: alone.all_reduce(array), lambda: alone.all_gather(array, [])):
        with pytest.raises(CommError, match="NCCL's communicator of rank 0 has been closed"):
            call()
