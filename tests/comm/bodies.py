"""What every transport must do, as functions of one rank's communicator.

Threads run them in test_collectives.py, real ranks in tests/mpi. Each rank can make every rank's
input, so it knows the whole answer.
"""

from __future__ import annotations

import numpy as np
import pytest

from distgrad.comm import Communicator
from distgrad.errors import CollectiveMismatchError, CommError, RankFailedError

FLOATS = ["float16", "float32", "float64", "complex64", "complex128", "bfloat16"]
INTS = ["int8", "uint8", "int16", "int32", "int64", "uint64"]


def dtype_of(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)


def values(rank, count, name):
    """The input of one rank: magnitudes differ, so that another order of summation shows."""
    generator = np.random.default_rng(1000 * count + rank)
    found = generator.standard_normal(count) * 10.0 ** generator.integers(-3, 3, count)
    if "complex" in name:
        found = found + 1j * generator.standard_normal(count)
    return found.astype(dtype_of(name))


def ordered_sum(parts, mean):
    dtype = parts[0].dtype
    wide = np.float32 if dtype.itemsize == 2 and dtype.kind not in "iu" else dtype
    total = parts[0].astype(wide)
    for part in parts[1:]:
        total = total + part.astype(wide)
    return (total / len(parts) if mean else total).astype(dtype)


def bits(array):
    return array.tobytes()


def allreduce_sums_in_rank_order(comm: Communicator, name, count, mean=False, checked=True):
    parts = [values(rank, count, name) for rank in range(comm.size)]
    expected = ordered_sum(parts, mean)
    mine = parts[comm.rank].copy()
    found = np.zeros_like(mine)
    comm.allreduce(mine, found, mean=mean, checked=checked)
    assert bits(found) == bits(expected)
    assert bits(mine) == bits(parts[comm.rank]), "send was changed"
    comm.allreduce(mine, mine, mean=mean, checked=checked)
    assert bits(mine) == bits(expected)


def allreduce_takes_shapes_and_read_only_input(comm):
    mine = np.full((3, 4, 5), comm.rank + 1.0, np.float32)
    mine.flags.writeable = False
    found = np.zeros((3, 4, 5), np.float32)
    comm.allreduce(mine, found)
    assert (found == comm.size * (comm.size + 1) / 2).all()
    scalar = np.zeros(())
    comm.allreduce(np.array(2.0), scalar)
    assert scalar == 2.0 * comm.size


def uneven(size, factor=1):
    """Counts that differ by rank, with empty ones among them."""
    return [factor * (rank % 3) for rank in range(size)]


def allgatherv_concatenates(comm, name, factor):
    counts = uneven(comm.size, factor)
    parts = [values(rank, counts[rank], name) for rank in range(comm.size)]
    found = np.zeros(sum(counts), dtype_of(name))
    comm.allgatherv(parts[comm.rank], found, counts)
    assert bits(found) == bits(np.concatenate(parts))
    begin = sum(counts[:comm.rank])
    again = np.zeros_like(found)
    again[begin:begin + counts[comm.rank]] = parts[comm.rank]
    comm.allgatherv(again[begin:begin + counts[comm.rank]], again, counts)
    assert bits(again) == bits(found), "a part that already lies in its place"


def allgather_concatenates(comm, name):
    parts = [values(rank, 7, name) for rank in range(comm.size)]
    found = np.zeros((comm.size, 7), dtype_of(name))
    comm.allgather(parts[comm.rank], found)
    assert bits(found) == bits(np.stack(parts))


def reduce_scatter_gives_each_its_part(comm, name, factor):
    counts = uneven(comm.size, factor)
    parts = [values(rank, sum(counts), name) for rank in range(comm.size)]
    begin = sum(counts[:comm.rank])
    for mean in (False, True):
        found = np.zeros(counts[comm.rank], dtype_of(name))
        comm.reduce_scatter(parts[comm.rank], found, counts, mean=mean)
        assert bits(found) == bits(ordered_sum(parts, mean)[begin:begin + counts[comm.rank]])


def alltoallv_delivers(comm, name):
    size, rank = comm.size, comm.rank
    table = [[(3 * i + j) % 4 for j in range(size)] for i in range(size)]
    parts = [values(i, sum(table[i]), name) for i in range(size)]
    cut = [np.split(parts[i], np.cumsum(table[i])[:-1]) for i in range(size)]
    expected = np.concatenate([cut[i][rank] for i in range(size)])
    recvcounts = [table[i][rank] for i in range(size)]
    for checked in (True, False):
        found = np.zeros(sum(recvcounts), dtype_of(name))
        comm.alltoallv(parts[rank], table[rank], found, recvcounts, checked=checked)
        assert bits(found) == bits(expected)


def broadcast_from_every_root(comm, name):
    for root in range(comm.size):
        buffer = values(comm.rank, 100, name)
        comm.broadcast(buffer, root)
        assert bits(buffer) == bits(values(root, 100, name))
    comm.broadcast(np.zeros(0), 0)


def messages_go_round(comm):
    if comm.size == 1:
        with pytest.raises(ValueError, match="itself"):
            comm.send(np.zeros(1), 0)
        return
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    first, second = np.zeros(3, np.int32), np.zeros(2)
    comm.send(np.full(3, comm.rank, np.int32), after, tag=1)
    comm.send(np.full(2, comm.rank + 0.5), after, tag=2)
    comm.recv(second, before, tag=2)
    comm.recv(first, before, tag=1)
    assert (first == before).all() and (second == before + 0.5).all()


def a_message_of_another_length_is_refused(comm):
    if comm.rank == 0:
        comm.send(np.zeros(3), 1)
    if comm.rank == 1:
        with pytest.raises(CollectiveMismatchError, match="rank 0 sent"):
            comm.recv(np.zeros(5), 0)
    comm.barrier()


def bytes_of_any_length(comm):
    for factor in (0, 1, 231, 232, 233, 5000):
        found = comm.allgather_bytes(bytes([comm.rank]) * (factor + comm.rank))
        assert found == [bytes([rank]) * (factor + rank) for rank in range(comm.size)]
        for root in range(comm.size):
            sent = b"\x00ab" * factor if comm.rank == root else (None if comm.rank % 2 else b"ignored")
            assert comm.broadcast_bytes(sent, root) == b"\x00ab" * factor


def duplicates_do_not_mix(comm):
    first, second = comm.dup(), comm.dup()
    assert first.name != second.name != comm.name
    order = (first, second, comm)
    found = [communicator.allgather_bytes(bytes([i])) for i, communicator in enumerate(order)]
    assert found == [[bytes([i])] * comm.size for i in range(3)]
    nested = first.dup()
    for communicator in (nested, second, first):
        communicator.close()
    comm.barrier()


def splitting_gives_each_color_a_communicator(comm):
    size, rank = comm.size, comm.rank
    assert comm.split(None) is None
    reversed_ranks = comm.split(3, -rank)
    assert (reversed_ranks.rank, reversed_ranks.size) == (size - 1 - rank, size)
    assert reversed_ranks.ranks == tuple(range(size))[::-1]
    half = comm.split(rank % 2 if rank != 2 else None)
    others = [other for other in range(size) if other % 2 == rank % 2 and other != 2]
    if rank == 2:
        assert half is None
    else:
        assert half.ranks == tuple(others) and half.rank == others.index(rank)
        for _ in range(2):  # the parts' traffic does not mix
            assert half.allgather_bytes(b"%d" % rank) == [b"%d" % other for other in others]
        allreduce_sums_in_rank_order(half, "float32", 3000)
        copy = half.dup()
        assert copy.ranks == half.ranks and copy.name != half.name
        deeper = copy.split(0, -copy.rank)
        assert deeper.ranks == tuple(others)[::-1], "numbered as in the outermost communicator"
        deeper.barrier()
        for each in (deeper, copy, half):
            each.close()
    comm.barrier()
    reversed_ranks.close()


def closing_is_final_and_idempotent(comm):
    other = comm.dup()
    other.barrier()
    other.close()
    other.close()
    assert other.closed and "closed" in repr(other)
    for call in (other.barrier, other.dup, lambda: other.allreduce(np.zeros(1), np.zeros(1)),
                 lambda: other.send(np.zeros(1), 0), lambda: other.allgather_bytes(b"")):
        with pytest.raises(CommError, match="closed"):
            call()


MISMATCHES = {
    "operation": (lambda c: c.barrier(), lambda c: c.allreduce(np.zeros(3), np.zeros(3)), ["barrier", "allreduce"]),
    "shape": (lambda c: c.allreduce(np.zeros(3), np.zeros(3)), lambda c: c.allreduce(np.zeros(4), np.zeros(4)),
              [r"\(3,\)", r"\(4,\)"]),
    "dtype": (lambda c: c.allreduce(np.zeros(3), np.zeros(3)),
              lambda c: c.allreduce(np.zeros(3, "f4"), np.zeros(3, "f4")), ["float64", "float32"]),
    "mean": (lambda c: c.allreduce(np.zeros(3), np.zeros(3)),
             lambda c: c.allreduce(np.zeros(3), np.zeros(3), mean=True), ["mean"]),
    "root": (lambda c: c.broadcast(np.zeros(3), 0), lambda c: c.broadcast(np.zeros(3), 1),
             ["from rank 0", "from rank 1"]),
    "count": (lambda c: c.allgather(np.zeros(1), np.zeros(c.size)),
              lambda c: c.allgather(np.zeros(2), np.zeros(2 * c.size)), ["1 from each", "2 from each"]),
    "counts": (lambda c: c.allgatherv(np.zeros(1), np.zeros(c.size), [1] * c.size),
               lambda c: c.allgatherv(np.zeros(2), np.zeros(c.size + 1), [1] * (c.size - 1) + [2]), [r"1, 2\]"]),
    "long payload": (lambda c: c.allgather_bytes(b"x" * 1000), lambda c: c.barrier(), ["allgather_bytes", "barrier"]),
}


def a_mismatch_raises_everywhere(comm, kind):
    usual, odd, words = MISMATCHES[kind]
    culprit = comm.size - 1
    for _ in range(2):  # the communicator stays usable
        with pytest.raises(CollectiveMismatchError) as caught:
            (odd if comm.rank == culprit else usual)(comm)
        for word in [*words, rf"rank {culprit}: "]:
            caught.match(word)
    comm.barrier()


def counts_that_disagree_raise_everywhere(comm):
    sendcounts, recvcounts = [1] * comm.size, [1] * comm.size
    if comm.rank == 1:
        recvcounts[0] = 3
    with pytest.raises(CollectiveMismatchError, match="rank 0 sends 1 elements to rank 1, which expects 3"):
        comm.alltoallv(np.zeros(sum(sendcounts)), sendcounts, np.zeros(sum(recvcounts)), recvcounts)
    comm.barrier()


def refused_arguments_reach_the_others(comm):
    if comm.rank == 1:
        with pytest.raises(ValueError, match="contiguous"):
            comm.allreduce(np.zeros((4, 4))[:, 1], np.zeros(4))
    else:
        with pytest.raises(RankFailedError, match=r"rank 1 raised.*contiguous") as caught:
            comm.allreduce(np.zeros(4), np.zeros(4))
        assert caught.value.rank == 1
    comm.barrier()


REFUSED = {
    "a list": (TypeError, lambda c: c.allreduce([1.0], np.zeros(1))),
    "objects": (TypeError, lambda c: c.broadcast(np.array([None, {}]))),
    "strided send": (ValueError, lambda c: c.allreduce(np.zeros(8)[::2], np.zeros(4))),
    "Fortran order": (ValueError, lambda c: c.broadcast(np.zeros((2, 3), order="F"))),
    "read-only recv": (ValueError, lambda c: c.allreduce(np.zeros(2), np.broadcast_to(np.zeros(()), (1,)).reshape(1))),
    "other dtype": (TypeError, lambda c: c.allreduce(np.zeros(2), np.zeros(2, np.float32))),
    "other shape": (ValueError, lambda c: c.allreduce(np.zeros(2), np.zeros((2, 1)))),
    "a sum of bools": (TypeError, lambda c: c.allreduce(np.zeros(2, bool), np.zeros(2, bool))),
    "a mean of ints": (TypeError, lambda c: c.allreduce(np.zeros(2, int), np.zeros(2, int), mean=True)),
    "overlap": (ValueError, lambda c: (lambda a: c.allreduce(a[:4], a[2:6]))(np.zeros(6))),
    "shared memory": (ValueError,
                      lambda c: (lambda a: c.alltoallv(a, [1] * c.size, a, [1] * c.size))(np.zeros(c.size))),
    "too few counts": (ValueError, lambda c: c.allgatherv(np.zeros(1), np.zeros(1), [])),
    "negative count": (ValueError, lambda c: c.allgatherv(np.zeros(0), np.zeros(0), [-1] * c.size)),
    "short recv": (ValueError, lambda c: c.allgather(np.zeros(2), np.zeros(2 * c.size - 1))),
    "no such root": (ValueError, lambda c: c.broadcast(np.zeros(1), c.size)),
    "no bytes at the root": (TypeError, lambda c: c.broadcast_bytes(None)),
    "no such peer": (ValueError, lambda c: c.recv(np.zeros(1), c.size)),
    "a negative color": (ValueError, lambda c: c.split(-1)),
    "a color that is no number": (ValueError, lambda c: c.split("a")),
    "a key that is no number": (TypeError, lambda c: c.split(0, None)),
    "a negative tag": (ValueError, lambda c: c.send(np.zeros(1), (c.rank + 1) % (c.size + 1), tag=-1)),
}


def bad_arguments_are_refused(comm, kind):
    error, call = REFUSED[kind]
    if kind == "no bytes at the root" and comm.rank:
        error = RankFailedError
    with pytest.raises(error):
        call(comm)
    comm.barrier()
