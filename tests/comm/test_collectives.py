"""Every collective, on ranks that are threads and on a single rank."""

from __future__ import annotations

import numpy as np
import pytest

from distgrad.comm import SelfCommunicator, base, run_ranks
from distgrad.comm.reduction import GRID, slice_counts

from . import bodies

SIZES = [0, 1, 2, 3, 5, 8]  # 0: the communicator that needs no threads

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=SIZES, ids=lambda size: f"{size} ranks" if size else "self")
def ranks(request):
    """Calls a body on every rank."""

    def call(body, *args, **kwargs):
        if request.param == 0:
            body(SelfCommunicator(), *args, **kwargs)
        else:
            run_ranks(request.param, lambda comm: body(comm, *args, **kwargs))

    call.size = request.param or 1
    return call


@pytest.mark.parametrize("count", [0, 1, 7, 1024, 1025, 3 * GRID + 5, 25 * GRID + 1])
@pytest.mark.parametrize("mean", [False, True])
def test_allreduce_lengths(ranks, count, mean):
    ranks(bodies.allreduce_sums_in_rank_order, "float32", count, mean)


@pytest.mark.parametrize("name", [*bodies.FLOATS, *bodies.INTS])
def test_allreduce_dtypes(ranks, name):
    for count in (5, 3000):
        ranks(bodies.allreduce_sums_in_rank_order, name, count, name in bodies.FLOATS)


def test_allreduce_in_chunks(ranks, monkeypatch):
    monkeypatch.setattr(base, "_CHUNK", 2 * GRID)
    ranks(bodies.allreduce_sums_in_rank_order, "float32", 7 * GRID + 3)


def test_allreduce_unchecked(ranks):
    ranks(bodies.allreduce_sums_in_rank_order, "float32", 2000, checked=False)


def test_order_of_the_sum_matters_here():
    """The inputs of these tests would show another order of summation."""
    parts = [bodies.values(rank, 1000, "float32") for rank in range(3)]
    assert bodies.bits(bodies.ordered_sum(parts, False)) != bodies.bits(bodies.ordered_sum(parts[::-1], False))


def test_half_sums_are_made_in_single_precision():
    parts = [np.full(1, value, np.float16) for value in (2048.0, 1.0, 1.0)]  # 2048 + 1 is 2048 in float16

    def body(comm):
        found = np.zeros(1, np.float16)
        comm.allreduce(parts[comm.rank], found)
        return found[0]

    assert run_ranks(3, body) == [2050.0] * 3


def test_shapes_and_read_only_input(ranks):
    ranks(bodies.allreduce_takes_shapes_and_read_only_input)


@pytest.mark.parametrize("name", ["float32", "bool", "complex128", "bfloat16", "S3"])
def test_gathering_moves_any_bits(ranks, name):
    ranks(bodies.allgather_concatenates, name)
    ranks(bodies.allgatherv_concatenates, name, 5)


@pytest.mark.parametrize("factor", [1, 1000])
def test_reduce_scatter(ranks, factor):
    ranks(bodies.reduce_scatter_gives_each_its_part, "float32", factor)
    ranks(bodies.reduce_scatter_gives_each_its_part, "float16", factor)


@pytest.mark.parametrize("name", ["float32", "int8", "complex128"])
def test_alltoallv(ranks, name):
    ranks(bodies.alltoallv_delivers, name)


def test_broadcast(ranks):
    ranks(bodies.broadcast_from_every_root, "float64")


def test_messages(ranks):
    ranks(bodies.messages_go_round)
    if ranks.size > 1:
        ranks(bodies.a_message_of_another_length_is_refused)


def test_bytes(ranks):
    ranks(bodies.bytes_of_any_length)


def test_duplicates(ranks):
    ranks(bodies.duplicates_do_not_mix)


def test_split(ranks):
    ranks(bodies.splitting_gives_each_color_a_communicator)


def test_close(ranks):
    ranks(bodies.closing_is_final_and_idempotent)


@pytest.mark.parametrize("kind", bodies.REFUSED)
def test_bad_arguments(ranks, kind):
    ranks(bodies.bad_arguments_are_refused, kind)


@pytest.mark.parametrize("kind", bodies.MISMATCHES)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_mismatches(size, kind):
    run_ranks(size, lambda comm: bodies.a_mismatch_raises_everywhere(comm, kind))


@pytest.mark.parametrize("size", [2, 5])
def test_errors_reach_all_ranks(size):
    run_ranks(size, bodies.counts_that_disagree_raise_everywhere)
    run_ranks(size, bodies.refused_arguments_reach_the_others)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, GRID, 24 * GRID + 1, 60 * GRID, 60 * GRID - 1])
def test_slices_cover_everything_on_the_grid(count, parts):
    counts = slice_counts(count, parts)
    assert len(counts) == parts and sum(counts) == count and min(counts) >= 0
    ends = np.cumsum(counts)
    if count >= 8 * parts * GRID:
        assert all(end % GRID == 0 or end == count for end in ends)
        assert max(counts) - min(counts) < 2 * GRID
    else:
        assert max(counts) - min(counts) <= 1
