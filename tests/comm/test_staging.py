"""Device memory in collectives and in DataParallel: staged through the host, with the host's bits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import backend, nn, optim
from distgrad.backend.base import Copy
from distgrad.backend.strict import transfers
from distgrad.distributed import DataParallel, world

STRICT = backend.get("strict")
RANKS = 3


def there(values: Any) -> Any:
    return STRICT.from_host(np.asarray(values, np.float32))


COLLECTIVES: dict[str, Callable[[Any, Any, int], Any]] = {
    "allreduce": lambda comm, at, r: (a := at([r, 1, 2]), b := at([0, 0, 0]), comm.allreduce(a, b, mean=True))[1],
    "in place": lambda comm, at, r: (a := at([r, 1, 2]), comm.allreduce(a, a))[0],
    "reduce_scatter": lambda comm, at, r: (b := at([0]), comm.reduce_scatter(at([r, 2 * r, 3]), b, [1, 1, 1]))[0],
    "allgather": lambda comm, at, r: (b := at([0] * 6), comm.allgather(at([r, -r]), b))[0],
    "allgatherv": lambda comm, at, r: (b := at([0] * 3), comm.allgatherv(at([r] * r), b, [0, 1, 2]))[0],
    "alltoallv": lambda comm, at, r: (b := at([0] * 3), comm.alltoallv(at([r, 10 * r, 9]), [1, 1, 1], b, [1] * 3))[0],
    "broadcast": lambda comm, at, r: (a := at([r, r + 1]), comm.broadcast(a, 2))[0],
    "by keyword": lambda comm, at, r: (b := at([0, 0]), comm.allreduce(recv=b, send=at([r, 1])))[0],
    "send": lambda comm, at, r: (a := at([r]), comm.send(a, 1) if r == 0 else comm.recv(a, 0) if r == 1 else None)[0],
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_collectives_take_arrays_of_a_device(name: str) -> None:
    def body(at: Callable[[Any], Any]) -> list[Any]:
        return dg.simulate(RANKS)(lambda rank: COLLECTIVES[name](world(), at, rank).tolist())

    assert body(there) == body(lambda values: np.asarray(values, np.float32))


def test_a_buffer_on_each_side() -> None:
    def body(rank: int) -> list[float]:
        found = np.zeros(2, np.float32)
        world().allreduce(there([rank, 1]), found)
        return found.tolist()

    assert dg.simulate(2)(body) == [[1, 2]] * 2


def test_what_cannot_be_sent_is_refused_by_its_device() -> None:
    def body(rank: int) -> None:
        world().allreduce(there(np.ones((2, 3))).T, there(np.ones((3, 2))))

    with pytest.raises(ValueError, match="on strict is not contiguous"):
        dg.simulate(2)(body)


def test_memory_that_is_not_cudas_is_staged_whatever_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from distgrad.comm import staging

    monkeypatch.setattr(staging, "config", replace(staging.config, cuda_mpi=1))
    monkeypatch.setattr("distgrad.comm.base.Communicator.takes_cuda", True)
    assert dg.simulate(RANKS)(lambda rank: COLLECTIVES["broadcast"](world(), there, rank).tolist()) == [[2, 3]] * RANKS


class _Slow(Copy):
    """A copy that has not ended before somebody waits for it, and is not there until then."""

    def __init__(self, array: Any, out: np.ndarray, log: list[str]) -> None:
        self.array, self.out, self.log, self.waited = array, out, log, False
        out[...] = np.nan

    @property
    def done(self) -> bool:
        return self.waited

    def wait(self) -> None:
        if not self.waited:
            STRICT.to_host(self.array, self.out)
            self.waited = True
            self.log.append("copied")


def _train(device: str, transport: str, **options: Any) -> Callable[[int], list[np.ndarray]]:
    def body(rank: int) -> list[np.ndarray]:
        dg.manual_seed(0)
        module = nn.Sequential(nn.Linear(70, 90), nn.Tanh(), nn.Linear(90, 70), nn.Tanh(), nn.Linear(70, 3))
        way = transport.replace("wire", "mpi")
        model = DataParallel(module.to(device), transport=way, bucket_bytes=1 << 14, **options)
        optimizer = optim.Adam(model.parameters(), lr=1e-2)
        for step in range(4):
            optimizer.zero_grad()
            x = dg.tensor(np.random.default_rng((rank, step)).standard_normal((4, 70)).astype("float32"), device=device)
            if step % 2:
                model.backward(model(x).square().mean(), weight=rank + 1)
            else:
                with model.no_sync():
                    model(x * 2).square().mean().backward()
                model(x).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        return [p.detach().cpu().numpy() for p in model.parameters()]

    return body


@pytest.mark.parametrize("transport", ["shared", "wire"])  # a test id "mpi" would be skipped by pytest-mpi
def test_training_waits_for_copies_and_keeps_the_order_of_buckets(transport: str,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dg.simulate(RANKS)(_train("strict", transport))
    log: list[str] = []
    monkeypatch.setattr(STRICT, "start_to_host", lambda array, out: _Slow(array, out, log))
    for found in dg.simulate(RANKS)(_train("strict", transport)):
        for mine, theirs in zip(found, expected[0], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert len(log) > 4 * RANKS


def test_a_step_moves_gradients_and_nothing_else() -> None:
    def body(rank: int) -> tuple[int, int]:
        module = nn.Linear(100, 50, device="strict")
        model = DataParallel(module)
        x = dg.ones(2, 100, device="strict")
        world().barrier()
        transfers.reset()
        world().barrier()
        model(x).sum().backward()
        world().barrier()
        return transfers.bytes_to_host, transfers.bytes_from_host

    size = 8192 * 4  # 5,050 elements on the grid
    assert dg.simulate(2)(body) == [(2 * size, 2 * size)] * 2


def test_bits_are_the_hosts() -> None:
    """On the reference kernels and numpy's own BLAS, a device's training is the host's, bit by bit."""
    code = ("import distgrad as dg\nfrom tests.comm.test_staging import _train\n"
            "for transport in ('shared', 'mpi'):\n"
            "    host, device = (dg.simulate(3)(_train(where, transport)) for where in ('cpu', 'strict'))\n"
            "    for mine, theirs in zip(device, host):\n"
            "        assert [a.tobytes() for a in mine] == [b.tobytes() for b in theirs], transport\n")
    from distgrad.config import child_environment

    subprocess.run([sys.executable, "-c", code], check=True, timeout=100,
                   env=child_environment(DISTGRAD_KERNELS="reference", DISTGRAD_BLAS="numpy"))
