"""The MPI transport on real ranks: mpiexec -n 2 python -m pytest --with-mpi tests/mpi."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from distgrad.comm import Progress, host, local_rank, node_ranks, nodes, world_communicator
from distgrad.comm.reduction import GRID
from distgrad.errors import CommError
from tests.comm import bodies

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]


@pytest.fixture
def mpi():
    from mpi4py import MPI

    return MPI


@pytest.fixture
def comm():
    return world_communicator()


@pytest.fixture
def wrap():
    from distgrad.comm.mpi import wrap

    return wrap


def test_the_world(comm, mpi):
    assert comm is world_communicator() and comm.name == "world"
    assert (comm.rank, comm.size) == (mpi.COMM_WORLD.rank, mpi.COMM_WORLD.size)
    assert mpi.Query_thread() == mpi.THREAD_MULTIPLE


@pytest.mark.parametrize("count", [0, 1, 1024, 1025, 3 * GRID + 5, 40 * GRID + 1])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("checked", [False, True])
def test_allreduce_lengths(comm, count, mean, checked):
    bodies.allreduce_sums_in_rank_order(comm, "float32", count, mean, checked)


@pytest.mark.parametrize("name", [*bodies.FLOATS, *bodies.INTS])
def test_allreduce_dtypes(comm, name):
    for count in (5, 3000):
        bodies.allreduce_sums_in_rank_order(comm, name, count, name in bodies.FLOATS)


def test_allreduce_in_chunks(comm, monkeypatch):
    monkeypatch.setattr("distgrad.comm.base._CHUNK", 2 * GRID)
    bodies.allreduce_sums_in_rank_order(comm, "float32", 7 * GRID + 3)


def test_shapes_and_read_only_input(comm):
    bodies.allreduce_takes_shapes_and_read_only_input(comm)


@pytest.mark.parametrize("limit", [None, 100])
@pytest.mark.parametrize("name", ["float32", "bool", "complex128", "bfloat16", "S3"])
def test_moving_any_bits(comm, name, limit, monkeypatch):
    """Also in pieces, as what exceeds the counts of MPI travels."""
    if limit:
        monkeypatch.setattr("distgrad.comm.mpi.communicator._LIMIT", limit)
    bodies.allgather_concatenates(comm, name)
    bodies.allgatherv_concatenates(comm, name, 200)
    if name not in ("bool", "S3"):
        bodies.alltoallv_delivers(comm, name)
        bodies.broadcast_from_every_root(comm, name)
        bodies.reduce_scatter_gives_each_its_part(comm, name, 200)
        bodies.allreduce_sums_in_rank_order(comm, name, 3000)


def test_messages(comm, monkeypatch):
    bodies.messages_go_round(comm)
    if comm.size > 1:
        bodies.a_message_of_another_length_is_refused(comm)
    monkeypatch.setattr("distgrad.comm.mpi.communicator._LIMIT", 2)
    bodies.messages_go_round(comm)


def test_bytes(comm):
    bodies.bytes_of_any_length(comm)


def test_duplicates(comm):
    bodies.duplicates_do_not_mix(comm)


def test_split(comm):
    bodies.splitting_gives_each_color_a_communicator(comm)


def test_close(comm):
    bodies.closing_is_final_and_idempotent(comm)


@pytest.mark.parametrize("kind", bodies.REFUSED)
def test_bad_arguments(comm, kind):
    bodies.bad_arguments_are_refused(comm, kind)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", bodies.MISMATCHES)
def test_mismatches(comm, kind):
    bodies.a_mismatch_raises_everywhere(comm, kind)


@pytest.mark.mpi(min_size=2)
def test_errors_reach_all_ranks(comm):
    bodies.counts_that_disagree_raise_everywhere(comm)
    bodies.refused_arguments_reach_the_others(comm)


def test_a_parent_is_duplicated_once(mpi, wrap):
    parent = mpi.COMM_WORLD.Dup()
    first = wrap(parent)
    assert wrap(parent) is first and wrap(mpi.Intracomm(parent)) is first
    assert wrap(mpi.COMM_WORLD) is world_communicator()
    first.close()
    second = wrap(parent)
    assert second is not first
    second.barrier()
    second.close()
    parent.Free()
    with pytest.raises(ValueError, match="freed"):
        wrap(parent)


def test_freed_parents_are_not_confused_with_new_ones(mpi, wrap):
    seen = []
    for _ in range(10):  # MPI uses the handles of freed communicators again
        parent = mpi.COMM_WORLD.Dup()
        found = wrap(parent)
        assert all(found is not old for old in seen)
        found.barrier()
        seen.append(found)
        parent.Free()
        found.barrier()  # the duplicate outlives its parent
    for found in seen:
        found.close()


def test_a_forgotten_communicator_is_not_freed_by_the_collector(mpi, comm):
    forgotten = comm.dup()
    handle = forgotten._comm.handle
    del forgotten
    gc.collect()
    raw = mpi.Comm.fromhandle(handle)
    raw.Barrier()
    raw.Free()


def test_traffic_of_the_caller_does_not_meet_ours(comm, mpi):
    """The caller's own pending message on the parent is not taken for one of ours."""
    request = mpi.COMM_WORLD.Ibarrier()
    comm.barrier()
    request.Wait()


def test_part_of_the_world(mpi, wrap):
    part = mpi.COMM_WORLD.Split(mpi.COMM_WORLD.rank % 2)
    found = wrap(part)
    assert (found.rank, found.size) == (part.rank, part.size)
    bodies.allreduce_sums_in_rank_order(found, "float32", 2000)
    found.close()
    part.Free()


def test_a_grid_of_ranks_is_a_communicator_too(mpi, wrap):
    grid = mpi.COMM_WORLD.Create_cart([mpi.COMM_WORLD.size])
    found = wrap(grid)
    bodies.allreduce_sums_in_rank_order(found, "float32", 10)
    found.close()
    grid.Free()


@pytest.mark.mpi(min_size=2)
def test_intercommunicators_are_refused(mpi, wrap):
    group = mpi.COMM_WORLD.Split(mpi.COMM_WORLD.rank == 0)
    leader = 1 if mpi.COMM_WORLD.rank == 0 else 0
    between = group.Create_intercomm(0, mpi.COMM_WORLD, leader)
    with pytest.raises(TypeError, match="intercommunicator"):
        wrap(between)
    between.Free()
    group.Free()


def test_the_machine(comm, mpi):
    assert nodes(comm) == (tuple(range(comm.size)),) and nodes(comm) is nodes(comm)
    assert node_ranks(comm) == tuple(range(comm.size)) and local_rank(comm) == comm.rank == local_rank()
    assert host()


def test_a_wire_beside_the_main_threads_traffic(comm):
    wire = Progress(comm.dup())
    buffers = [np.full(5000, comm.rank + i, np.float32) for i in range(20)]
    works = [wire.submit(wire.comm.allreduce, buffer, buffer) for buffer in buffers]
    for i in range(20):
        assert comm.allgather_bytes(bytes([i])) == [bytes([i])] * comm.size
    for i, work in enumerate(works):
        work.wait()
        assert (buffers[i] == sum(rank + i for rank in range(comm.size))).all()
    wire.close()
    wire.comm.close()


def test_an_error_of_the_wire_reaches_the_caller(comm):
    wire = Progress(comm.dup())
    with pytest.raises(TypeError, match="cannot be summed"):
        wire.submit(wire.comm.allreduce, np.zeros(1, bool), np.zeros(1, bool)).wait()
    wire.comm.close()
    assert wire.closed and not any(thread.name.startswith("distgrad wire") for thread in threading.enumerate())


def test_mpi_errors_become_ours(comm):
    with pytest.raises(CommError, match="send to rank 99 with tag 0: MPI reports"):
        comm._send(np.zeros(1), 99, 0)
    comm.barrier()
