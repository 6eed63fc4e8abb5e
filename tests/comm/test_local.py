"""Ranks as threads: failures, limits and what is left behind."""

from __future__ import annotations

import contextvars
import threading
import time

import numpy as np
import pytest

from distgrad.comm import Progress, deadline, run_ranks
from distgrad.config import Config
from distgrad.errors import CollectiveMismatchError, CommError, RankFailedError

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def limits(monkeypatch):
    def set_limits(soft, hard):
        monkeypatch.setattr(deadline, "config", Config(soft_timeout=soft, hard_timeout=hard))

    return set_limits


def test_results_come_in_rank_order():
    assert run_ranks(5, lambda comm: (comm.rank, comm.size)) == [(rank, 5) for rank in range(5)]
    with pytest.raises(ValueError, match="at least one"):
        run_ranks(0, lambda comm: None)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_rank_that_raises_is_named_and_reraised(size):
    seen = {}

    def body(comm):
        if comm.rank == 1:
            comm.barrier()
            raise KeyError("the guilty one")
        comm.barrier()
        try:
            comm.allreduce(np.zeros(3), np.zeros(3))
        except RankFailedError as error:
            seen[comm.rank] = error
            raise

    begin = time.monotonic()
    with pytest.raises(KeyError, match="guilty") as caught:
        run_ranks(size, body)
    assert time.monotonic() - begin < 5
    assert caught.value.__notes__ == [f"raised on simulated rank 1 of {size}"]
    assert sorted(seen) == [rank for rank in range(size) if rank != 1]
    assert all(error.rank == 1 and "KeyError" in str(error) and "allreduce #2" in str(error) for error in seen.values())


def test_a_rank_that_returns_early_is_named():
    with pytest.raises(RankFailedError, match="rank 2 cannot take part, it has returned") as caught:
        run_ranks(3, lambda comm: None if comm.rank == 2 else comm.barrier())
    assert caught.value.rank == 2


def test_a_part_of_a_split_names_ranks_as_the_whole_does():
    def body(comm):
        half = comm.split(comm.rank % 2)
        if comm.rank == 3:
            return
        half.barrier() if comm.rank == 1 else comm.rank

    with pytest.raises(RankFailedError, match=r"rank 1 \(rank 0 of 2 .*rank 3 cannot take part") as caught:
        run_ranks(4, body)
    assert caught.value.rank == 3


@pytest.mark.parametrize("nodes", [[2], [2, 2], [3, 0], []])
def test_machines_whose_ranks_are_not_all_the_ranks_are_refused(nodes):
    with pytest.raises(ValueError, match="3 together"):
        run_ranks(3, lambda comm: None, nodes)


def test_a_message_from_a_rank_that_has_ended():
    with pytest.raises(RankFailedError, match="recv from rank 1 with tag 4"):
        run_ranks(2, lambda comm: comm.recv(np.zeros(1), 1, tag=4) if comm.rank == 0 else None)
    assert run_ranks(2, lambda comm: comm.send(np.zeros(1), 1) if comm.rank == 0 else comm.recv(np.zeros(1), 0)) \
        == [None, None], "what was sent before the end still arrives"


def test_two_guilty_ranks_are_both_told():
    start = threading.Barrier(2)

    def body(comm):
        start.wait()
        raise ValueError(f"from {comm.rank}")

    with pytest.raises(ValueError) as caught:
        run_ranks(2, body)
    assert len(caught.value.__notes__) == 2 and "raised as well" in caught.value.__notes__[1]


def test_a_mismatch_names_both_calls():
    with pytest.raises(CollectiveMismatchError, match=r"ranks 0, 2: barrier #1\n  rank 1: broadcast #1 float64"):
        run_ranks(3, lambda comm: comm.broadcast(np.zeros(2)) if comm.rank == 1 else comm.barrier())


def test_unchecked_calls_are_compared_too():
    with pytest.raises(CollectiveMismatchError):
        run_ranks(2, lambda comm: comm.allreduce(np.zeros(comm.rank + 1), np.zeros(comm.rank + 1), checked=False))


def test_a_closed_peer_is_named():
    def body(comm):
        other = comm.dup()
        if comm.rank == 1:
            other.close()
            comm.recv(np.zeros(1), 0)
            return
        try:
            other.barrier()
        finally:
            comm.send(np.zeros(1), 1)

    with pytest.raises(CommError, match="rank 1 has closed"):
        run_ranks(2, body)


def test_abort_stops_the_others():
    def body(comm):
        if comm.rank == 0:
            comm.abort("enough")
        comm.barrier()

    with pytest.raises(CommError, match="aborted: enough") as caught:
        run_ranks(3, body)
    assert not isinstance(caught.value, RankFailedError)


def test_the_soft_limit_reports_and_the_hard_limit_raises(limits, capfd):
    limits(0.1, 0.6)
    release = threading.Event()

    def body(comm):
        if comm.rank == 1:
            release.wait(10)
            return
        try:
            comm.barrier()
        finally:
            release.set()

    with pytest.raises(CommError, match=r"waited 0\.\d s in barrier #1 for rank 1"):
        run_ranks(2, body)
    said = capfd.readouterr().err
    assert "rank 0 of 2 on 'world' has waited 0.1 s in barrier #1 for rank 1" in said
    assert "release.wait(10)" in said, "the stack of the missing rank"
    assert said.count("has waited") == 1


def test_a_slow_rank_within_the_limits_is_no_error(limits, capfd):
    limits(0.1, 20)

    def body(comm):
        if comm.rank == 0:
            time.sleep(0.3)
        comm.barrier()

    run_ranks(2, body)
    assert "has waited" in capfd.readouterr().err


def test_two_threads_on_one_communicator_are_refused():
    def body(comm):
        if comm.rank == 1:
            comm.recv(np.zeros(1), 0)
            comm.barrier()
            return
        other = threading.Thread(target=comm.barrier)
        other.start()
        while not comm.current:
            time.sleep(0.001)
        with pytest.raises(CommError, match=r"while another thread is in barrier #1.*dup"):
            comm.barrier()
        comm.send(np.zeros(1), 1)
        other.join()

    run_ranks(2, body)


def test_context_is_each_ranks_own():
    name = contextvars.ContextVar("name", default="none")
    name.set("caller")

    def body(comm):
        assert name.get() == "caller"
        name.set(f"rank {comm.rank}")
        comm.barrier()
        return name.get()

    assert run_ranks(3, body) == ["rank 0", "rank 1", "rank 2"]
    assert name.get() == "caller"


@pytest.mark.parametrize("fails", [False, True])
def test_no_thread_is_left_behind(fails):
    before = threading.active_count()

    def body(comm):
        wire = Progress(comm.dup())  # forgotten
        wire.submit(wire.comm.barrier)
        comm.barrier()
        if fails and comm.rank == 0:
            raise OSError("gone")
        if fails:
            wire.submit(wire.comm.barrier)  # rank 0 never comes

    if fails:
        with pytest.raises(OSError):
            run_ranks(3, body)
    else:
        run_ranks(3, body)
    assert threading.active_count() == before


def test_simulations_nest():
    def outer(comm):
        inner = run_ranks(2, lambda small: small.allgather_bytes(bytes([comm.rank, small.rank])))
        return comm.allgather_bytes(b"".join(inner[0]))

    assert run_ranks(2, outer)[1] == [bytes([0, 0, 0, 1]), bytes([1, 0, 1, 1])]


def test_ranks_share_no_memory():
    def body(comm):
        buffer = np.full(4, float(comm.rank))
        comm.broadcast(buffer, 0)
        comm.barrier()
        buffer += comm.rank
        comm.barrier()
        return buffer[0]

    assert run_ranks(3, body) == [0.0, 1.0, 2.0]
