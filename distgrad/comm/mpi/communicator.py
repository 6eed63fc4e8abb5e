"""MPI as a transport: the primitives of `Communicator` on a private duplicate of an MPI communicator.

MPI only moves bits here: arrays travel as unsigned integers of their item size, and sums are made by
the base class. It refuses what MPI would crash or hang on: intercommunicators, null and freed handles.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from ...backend import of
from ...errors import CollectiveMismatchError
from ..arguments import RESERVED_TAG
from ..base import Communicator
from ..deadline import report
from .library import library, takes_cuda
from .patience import wait_for
from .watch import expect_farewells, start, watched

__all__ = ["MPICommunicator", "wrap"]

# MPI counts and displacements are C ints. What is larger travels in pieces.
_LIMIT = 2**31 - 1

# Seconds for the launcher to read what a rank has said: it drops the rest when the job ends.
_FORWARDING = 0.2

_UNITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.uint64}

_keyval: int | None = None


def wrap(comm: Any) -> MPICommunicator:
    """The communicator over `comm`, an mpi4py intracommunicator. Collective.

    All traffic goes over a duplicate, which never meets the caller's own messages. The duplicate is kept
    with its parent, as an MPI attribute: wrapping the same parent again returns the same object until it
    is closed, and a parent that was freed takes its entry with it.
    """
    global _keyval
    mpi = library()
    if not isinstance(comm, mpi.Comm):
        raise TypeError(f"expected an mpi4py communicator, got {type(comm).__name__}")
    if comm == mpi.COMM_NULL:
        raise ValueError("this MPI communicator is null or has been freed: there are no ranks in it")
    if comm.Is_inter():
        raise TypeError("this is an MPI intercommunicator, which joins two groups: pass an intracommunicator, "
                        "for example its Merge()")
    if _keyval is None:
        _keyval = mpi.Comm.Create_keyval()
    found = comm.Get_attr(_keyval)
    if found is None or found.closed:
        world = mpi.Comm.Compare(comm, mpi.COMM_WORLD) == mpi.IDENT
        found = MPICommunicator(comm.Dup(), "world" if world else f"comm {comm.Get_name()}".rstrip())
        if world and found.size > 1:
            expect_farewells(comm)
        comm.Set_attr(_keyval, found)
    return found


class MPICommunicator(Communicator):
    """A rank of an MPI job. Made by `wrap` and `dup`; owns the duplicate it is given.

    `close()` frees the duplicate and is collective. What is still open at exit is left to MPI_Finalize;
    nothing is ever freed by the garbage collector, which runs at other moments on other ranks.
    """

    ranks_are_processes = True

    def __init__(self, duplicate: Any, name: str) -> None:
        super().__init__(duplicate.Get_rank(), duplicate.Get_size(), name)
        self._mpi = library()
        self._comm = duplicate
        duplicate.Set_errhandler(self._mpi.ERRORS_RETURN)
        if self.size > 1:
            start(self)

    @property
    def takes_cuda(self) -> bool:
        """Yes, for mpi4py hands such memory on; that the library can do with it, the user has said.

        Raises:
            RuntimeError: the library says that it cannot: it would crash.
        """
        if takes_cuda() is False:
            vendor = self._mpi.Get_library_version().splitlines()[0].split(",")[0].strip("\0 ")
            raise RuntimeError(f"{self._who()}: DISTGRAD_CUDA_MPI=1 says that MPI takes CUDA memory, but this library "
                               f"({' '.join(vendor.split())}) says that it does not: unset DISTGRAD_CUDA_MPI, and "
                               "device memory goes by way of the host, or use an MPI that was built with CUDA")
        return True

    def library_allreduce(self, send: Any | None, recv: Any) -> None:
        """The MPI library's own sum, in an order of its own; of `recv` in place where `send` is None.

        For benchmarks: sums that have to be the same in every run are made by `allreduce`.
        """
        with watched(self, "library_allreduce"):
            self._comm.Allreduce(self._mpi.IN_PLACE if send is None else send, recv)

    def _finish(self, request: Any) -> None:
        wait_for(request.Test, self.patient)

    def _allgather_block(self, block: bytes) -> list[bytes]:
        found = bytearray(len(block) * self.size)
        with watched(self):
            self._finish(self._comm.Iallgather([block, self._mpi.BYTE], [found, self._mpi.BYTE]))
        length = len(block)
        return [bytes(found[i * length:(i + 1) * length]) for i in range(self.size)]

    def _allgatherv(self, send: Any | None, recv: Any, counts: Sequence[int]) -> None:
        units, scale = _units(recv)
        if units.size > _LIMIT:
            self._allgather_pieces(send, recv, counts)
            return
        mine = self._mpi.IN_PLACE if send is None else _given(_units(send)[0])
        with watched(self):
            self._finish(self._comm.Iallgatherv(mine, [_given(units), [count * scale for count in counts]]))

    def _alltoallv(self, send: Any, sendcounts: Sequence[int], recv: Any, recvcounts: Sequence[int],
                   largest: int) -> None:
        source, scale = _units(send)
        target, _ = _units(recv)
        if largest * scale > _LIMIT:
            self._alltoall_pieces(source, [count * scale for count in sendcounts],
                                  target, [count * scale for count in recvcounts])
            return
        with watched(self):
            self._finish(self._comm.Ialltoallv([_given(source), [count * scale for count in sendcounts]],
                                               [_given(target), [count * scale for count in recvcounts]]))

    def _broadcast(self, buffer: Any, root: int) -> None:
        for piece in _pieces(buffer):
            with watched(self):
                self._finish(self._comm.Ibcast(_given(piece), root))

    def _send(self, buffer: Any, dest: int, tag: int) -> None:
        for piece in _pieces(buffer):
            with watched(self, f"send to rank {dest} with tag {tag}"):
                self._finish(self._comm.Isend(_given(piece), dest, tag))

    def _recv(self, buffer: Any, source: int, tag: int) -> None:
        mpi = self._mpi
        for piece in _pieces(buffer):
            status = mpi.Status()
            with watched(self, f"recv from rank {source} with tag {tag}"):
                message = wait_for(partial(self._comm.Improbe, source, tag, status), self.patient)
            length = status.Get_count(mpi.BYTE)
            if length != piece.nbytes:
                message.Recv(np.empty(length, np.uint8))
                raise CollectiveMismatchError(f"{self._who()}: rank {source} sent {length} bytes with tag {tag}, but "
                                              f"recv expects {piece.nbytes}")
            message.Recv(_given(piece))

    def _dup(self, name: str) -> MPICommunicator:
        with watched(self):
            return MPICommunicator(self._comm.Dup(), name)

    def _split(self, name: str, color: int | None, members: Sequence[int]) -> MPICommunicator | None:
        with watched(self):
            if color is None:
                self._comm.Split(self._mpi.UNDEFINED, 0)
                return None
            return MPICommunicator(self._comm.Split(color, members.index(self.rank)), name)

    def _close(self) -> None:
        with watched(self, "close"):
            self._comm.Free()

    def _abort(self, message: str, code: int) -> None:
        sys.stdout.flush()
        if message:
            report(message)
        sys.stderr.flush()
        time.sleep(_FORWARDING)
        self._mpi.COMM_WORLD.Abort(code)
        os._exit(code)  # MPICH's Abort may return before the launcher ends this process

    def _allgather_pieces(self, send: Any | None, recv: Any, counts: Sequence[int]) -> None:
        """Each rank broadcasts its part: for buffers whose displacements do not fit a C int."""
        begin = 0
        for rank, count in enumerate(counts):
            part = recv[begin:begin + count]
            if rank == self.rank and send is not None:
                part[...] = send  # numpy's, or a device's
            self._broadcast(part, rank)
            begin += count

    def _alltoall_pieces(self, send: Any, sendcounts: Sequence[int], recv: Any, recvcounts: Sequence[int]) -> None:
        """Exchange with one rank after the other: for buffers whose displacements do not fit a C int."""
        null = self._mpi.PROC_NULL
        for shift in range(self.size):
            dest, source = (self.rank + shift) % self.size, (self.rank - shift) % self.size
            begin, start = sum(sendcounts[:dest]), sum(recvcounts[:source])
            outgoing = _pieces(send[begin:begin + sendcounts[dest]])
            incoming = _pieces(recv[start:start + recvcounts[source]])
            for out, into in zip_longest(outgoing, incoming):
                with watched(self):
                    self._comm.Sendrecv(_given(send[:0] if out is None else out), null if out is None else dest,
                                        RESERVED_TAG, _given(recv[:0] if into is None else into),
                                        null if into is None else source, RESERVED_TAG)


class _OnDevice:
    """Device memory as mpi4py takes it: where it lies, and how many integers of which size.

    An array offers itself in several ways, each with rules of its own for streams; `staging` has synchronised.
    """

    def __init__(self, units: Any) -> None:
        self.units = units  # alive as long as MPI has the address
        self.__cuda_array_interface__ = {"shape": units.shape, "typestr": units.dtype.str, "strides": None,
                                         "data": (of(units).address(units), False), "version": 3, "stream": None}


def _given(units: Any) -> Any:
    """What mpi4py is handed for flat memory of the host or of a device."""
    return units if isinstance(units, np.ndarray) else _OnDevice(units)


def _units(flat: Any) -> tuple[Any, int]:
    """The same memory as unsigned integers that MPI knows, and how many of them make one element."""
    itemsize = flat.dtype.itemsize
    units = flat.view(_UNITS.get(itemsize, np.uint8))
    return units, itemsize // units.dtype.itemsize


def _pieces(flat: Any) -> list[Any]:
    units, _ = _units(flat)
    return [units[begin:begin + _LIMIT] for begin in range(0, units.size, _LIMIT)] or [units]
