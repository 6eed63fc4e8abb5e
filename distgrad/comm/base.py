"""The Communicator: what ranks can do together, written once for every transport.

It checks arguments, compares each call over the ranks, cuts and sums in rank order. A transport adds
ten primitives (the methods at the end) that only move bytes; it never sees shapes or sums. Nothing
here knows about graphs, tensors or buckets: `distributed` hands in contiguous arrays.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from ..errors import CommError
from ..tracing import instant, listeners
from . import agreement, arguments
from .agreement import Header
from .reduction import GRID, slice_counts, sum_in_order
from .staging import takes_device_memory

__all__ = ["Communicator"]

# Up to this many elements a sum is one message (everybody gathers all) instead of two.
_SMALL = 1024

# Elements of a large sum that are on their way at a time; bounds the scratch memory of a rank.
_CHUNK = 2048 * GRID


class Communicator(ABC):
    """A fixed group of ranks that exchange arrays and short messages.

    All ranks call the same collectives in the same order. A call that differs between ranks raises
    CollectiveMismatchError on every rank, unless it was made with `checked=False`, which saves one
    small message and promises that all ranks agree. A communicator serves one thread at a time; other
    traffic takes a `dup()`. Buffers are C-contiguous numpy arrays.

    Attributes:
        rank, size: this rank's number and how many there are.
        ranks: the numbers of its ranks in the communicator from which it was split off, the outermost one.
        name: how error messages call this communicator.
        machine: what tells this rank's machine from others besides the host's identity; for simulated ranks.
        order, current: the number of the last collective, and the description of the one under way.
        ranks_are_processes: whether a rank that raises or hangs has to end the whole job.
        checks_always: whether `checked=False` is ignored.
        patient: whether its thread sleeps while it waits, because another one computes on the same core.
    """

    ranks_are_processes = False
    checks_always = False
    patient = False
    machine = b""

    def __init__(self, rank: int, size: int, name: str) -> None:
        self.rank = rank
        self.size = size
        self.ranks = tuple(range(size))
        self.name = name
        self.closed = False
        self.order = 0
        self._children = 0
        self.current = ""
        self._busy = threading.Lock()
        self._closers: list[Callable[[], None]] = []
        self._scratch = np.empty(0, np.uint8)

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"{type(self).__name__}({self.name!r}, rank {self.rank} of {self.size}{state})"

    @property
    def takes_cuda(self) -> bool:
        """Whether its transport can be given CUDA memory, where DISTGRAD_CUDA_MPI=1 says that MPI takes it."""
        return False

    def dup(self) -> Communicator:
        """A communicator of the same ranks whose traffic never meets this one's. Collective."""
        with self._collective("dup", lambda: ""):
            self._children += 1
            found = self._dup(f"{self.name}.{self._children}")
            found.ranks = self.ranks
            return found

    def split(self, color: int | None, key: int = 0) -> Communicator | None:
        """A communicator of the ranks that pass the same `color`, ordered by `key`, then by rank. Collective.

        Returns:
            The communicator; None on ranks whose color is None.
        """

        def check() -> str:
            arguments.check_color(color, key)
            return ""

        payload = b"" if color is None else f"{color} {key}".encode()
        with self._collective("split", check, payload=payload) as payloads:
            self._children += 1
            chosen = [tuple(map(int, text.split())) for text in payloads]
            alike = sorted((entry[1], rank) for rank, entry in enumerate(chosen) if entry and entry[0] == color)
            members = [rank for _, rank in alike]
            found = self._split(f"{self.name}.{self._children}/{color}", color, members)
            if found is not None:
                found.ranks = tuple(self.ranks[rank] for rank in members)
            return found

    def close(self) -> None:
        """Give the communicator back. Call it on every rank; further calls do nothing."""
        if self.closed:
            return
        self.run_closers()
        self.closed = True
        self._close()

    def run_closers(self) -> None:
        """End what works on this communicator, the latest first, without closing it."""
        while self._closers:
            self._closers.pop()()

    def at_close(self, closer: Callable[[], None]) -> Callable[[], None]:
        """Have `closer()` called when `close` begins; returns a function that takes this back."""
        self._closers.append(closer)

        def forget() -> None:
            if closer in self._closers:
                self._closers.remove(closer)

        return forget

    def abort(self, message: str, code: int = 1) -> NoReturn:
        """Say `message`, unless it is empty, and end the job on all ranks with the exit status `code`."""
        self._abort(f"{self._who()}: {message}" if message else "", code)
        raise CommError(f"{self._who()}: aborted: {message}")

    def barrier(self) -> None:
        """Return when every rank has called it."""
        with self._collective("barrier", lambda: ""):
            pass

    def allgather_bytes(self, data: bytes) -> list[bytes]:
        """Every rank's `data`, in rank order. Lengths may differ; short ones cost one message."""
        with self._collective("allgather_bytes", lambda: "", payload=data) as payloads:
            return payloads

    def broadcast_bytes(self, data: bytes | None, root: int = 0) -> bytes:
        """The `data` of rank `root`, on all ranks; what the others pass is ignored."""

        def check() -> str:
            arguments.check_rank("root", root, self.size)
            if self.rank == root and data is None:
                raise TypeError("the root of broadcast_bytes must pass bytes, not None")
            return f"from rank {root}"

        payload = data if self.rank == root and data is not None else b""
        with self._collective("broadcast_bytes", check, payload=payload) as payloads:
            return payloads[root]

    @takes_device_memory("recv", read=("send",))
    def allreduce(self, send: Any, recv: Any, *, mean: bool = False, checked: bool = True) -> None:
        """Write the sum of `send` over all ranks to `recv`, with the same bits on every rank.

        The sum is ((g0 + g1) + g2) + ... in rank order, then divided by `size` if `mean`. float16 and
        bfloat16 are summed in float32. `send` is left as it is, unless `recv` is the same buffer.
        """
        with self._collective("allreduce", lambda: arguments.reduction(send, recv, mean), checked=checked):
            if self.size == 1:
                np.copyto(recv, send)
                return
            source, target = send.reshape(-1), recv.reshape(-1)
            for begin in range(0, source.size, _CHUNK):
                chunk = slice(begin, begin + _CHUNK)
                self._sum_chunk(source[chunk], target[chunk], mean)

    @takes_device_memory("recv", read=("send",))
    def reduce_scatter(self, send: Any, recv: Any, counts: Sequence[int], *, mean: bool = False,
                       checked: bool = True) -> None:
        """Sum `send` over the ranks as `allreduce` does; rank r keeps the r-th part, `counts[r]` long."""

        def check() -> str:
            return arguments.scattered_sum(send, recv, counts, self.rank, self.size, mean)

        with self._collective("reduce_scatter", check, checked=checked):
            mine = counts[self.rank]
            parts = self._scratch_of(send.dtype, mine * self.size)
            largest = max(sum(counts), max(counts) * self.size)
            self._alltoallv(send.reshape(-1), counts, parts, [mine] * self.size, largest)
            sum_in_order(parts.reshape(self.size, mine), recv.reshape(-1), mean)

    def allgather(self, send: Any, recv: Any, *, checked: bool = True) -> None:
        """Write every rank's `send` to `recv` one after the other; all are equally long."""
        counts = [getattr(send, "size", 0)] * self.size
        self._concatenate("allgather", send, recv, counts, checked)

    def allgatherv(self, send: Any, recv: Any, counts: Sequence[int], *, checked: bool = True) -> None:
        """Write every rank's `send` to `recv` one after the other; rank r gives `counts[r]` elements."""
        self._concatenate("allgatherv", send, recv, counts, checked)

    @takes_device_memory("recv", read=("send",), moves=True)
    def alltoallv(self, send: Any, sendcounts: Sequence[int], recv: Any, recvcounts: Sequence[int], *,
                  checked: bool = True) -> None:
        """Give each rank its part of `send` and write the parts received to `recv` in rank order.

        `sendcounts[r]` elements go to rank r, `recvcounts[r]` come from it. Unchecked, no rank's buffer
        may have 2**31 elements or more.
        """

        def check() -> str:
            return arguments.exchange(send, sendcounts, recv, recvcounts, self.size)

        payload = b""
        checked = checked or self.checks_always
        if checked:
            payload = np.asarray([*sendcounts, *recvcounts], np.int64).tobytes()
        with self._collective("alltoallv", check, checked=checked, payload=payload) as payloads:
            largest = agreement.compare_counts(self._where(), payloads) if payloads else max(send.size, recv.size)
            self._alltoallv(send.reshape(-1), sendcounts, recv.reshape(-1), recvcounts, largest)

    @takes_device_memory("buffer", moves=True)
    def broadcast(self, buffer: Any, root: int = 0, *, checked: bool = True) -> None:
        """Overwrite `buffer` with that of rank `root`."""

        def check() -> str:
            return arguments.broadcast(buffer, root, self.rank, self.size)

        with self._collective("broadcast", check, checked=checked):
            if self.size > 1 and buffer.size:
                self._broadcast(buffer.reshape(-1), root)

    @takes_device_memory(read=("buffer",), moves=True)
    def send(self, buffer: Any, dest: int, tag: int = 0) -> None:
        """Send `buffer` to rank `dest`, which must `recv` it. May wait until it does."""
        self._require_open("send")
        arguments.message("dest", buffer, dest, tag, self.rank, self.size)
        self._send(buffer.reshape(-1), dest, tag)

    @takes_device_memory("buffer", moves=True)
    def recv(self, buffer: Any, source: int, tag: int = 0) -> None:
        """Wait for a message of rank `source` that fits `buffer` exactly, and write it there."""
        self._require_open("recv")
        arguments.message("source", buffer, source, tag, self.rank, self.size)
        self._recv(buffer.reshape(-1), source, tag)

    def _sum_chunk(self, send: Any, recv: Any, mean: bool) -> None:
        """Sum one flat chunk: each rank adds up its slice of it, then all gather the slices."""
        size = self.size
        if send.size <= _SMALL:
            parts = self._scratch_of(send.dtype, send.size * size)
            self._allgatherv(send, parts, [send.size] * size)
            sum_in_order(parts.reshape(size, send.size), recv, mean)
            return
        counts = slice_counts(send.size, size)
        mine, begin = counts[self.rank], sum(counts[:self.rank])
        parts = self._scratch_of(send.dtype, mine * size)
        self._alltoallv(send, counts, parts, [mine] * size, send.size + GRID * size)
        sum_in_order(parts.reshape(size, mine), recv[begin:begin + mine], mean)
        self._allgatherv(None, recv, counts)

    @takes_device_memory("recv", read=("send",), moves=True)
    def _concatenate(self, op: str, send: Any, recv: Any, counts: Sequence[int], checked: bool) -> None:
        def check() -> str:
            return arguments.concatenation(send, recv, counts, self.rank, self.size)

        with self._collective(op, check, checked=checked):
            source = send.reshape(-1)
            if arguments.may_share_memory(send, recv):
                source = source.copy()
            self._allgatherv(source, recv.reshape(-1), counts)

    @contextmanager
    def _collective(self, op: str, check: Callable[[], str], *, checked: bool = True,
                    payload: bytes = b"") -> Iterator[list[bytes]]:
        """Hold the communicator for one collective that all ranks agree on; gives all ranks' payloads.

        Arguments that are refused on one rank are announced, so that the others raise instead of waiting.
        """
        self._require_open(op)
        if not self._busy.acquire(blocking=False):
            raise CommError(f"{self._who()}: {op} was called while another thread is in {self.current}: "
                            "give each thread its own dup()")
        try:
            self.order += 1
            self.current = f"{op} #{self.order}"
            error: Exception | None = None
            try:
                text = f"{self.current} {check()}".rstrip()
            except (TypeError, ValueError) as refusal:
                error = refusal
                text = agreement.refusal(self.current, refusal)
                payload = b""
            if listeners:
                instant(f"comm.{op}", rank=self.rank, comm=self.name, call=text)
            payloads = self._agree(text, payload, error) if checked or self.checks_always else []
            if error is not None:
                raise error
            yield payloads
        finally:
            self.current = ""
            self._busy.release()

    def _agree(self, text: str, payload: bytes, error: Exception | None) -> list[bytes]:
        """Compare this call over the ranks; raise on all of them if it differs anywhere."""
        mine = agreement.digest(text)
        digests, payloads = self._gather(mine, payload)
        if digests.count(mine) < self.size:
            texts = [data.decode() for data in self._gather(mine, text.encode())[1]]
            raise error or agreement.disagreement(self._where(), texts)
        return payloads

    def _gather(self, digest: bytes, data: bytes) -> tuple[list[bytes], list[bytes]]:
        headers = [Header(block) for block in self._allgather_block(Header.pack(digest, data))]
        digests = [header.digest for header in headers]
        lengths = [header.length for header in headers]
        if max(lengths) <= agreement.INLINE:
            return digests, [header.beginning for header in headers]
        everything = np.empty(sum(lengths), np.uint8)
        self._allgatherv(np.frombuffer(data, np.uint8), everything, lengths)
        ends = np.cumsum(lengths).tolist()
        return digests, [everything[end - length:end].tobytes() for end, length in zip(ends, lengths, strict=True)]

    def _scratch_of(self, dtype: Any, count: int) -> Any:
        needed = count * dtype.itemsize
        if self._scratch.size < needed:
            self._scratch = np.empty(needed, np.uint8)
        return self._scratch[:needed].view(dtype)

    def _require_open(self, op: str) -> None:
        if self.closed:
            raise CommError(f"{self._who()}: {op} on a communicator that has been closed")

    def _who(self) -> str:
        text = f"rank {self.rank} of {self.size} on {self.name!r}"
        return text if self.ranks == tuple(range(self.size)) else f"rank {self.ranks[self.rank]} ({text})"

    def _where(self) -> str:
        return f"{self._who()}: in {self.current}"

    # What a transport provides. Buffers are flat and correct; `None` as send means that this rank's
    # part already lies in its place in recv.

    @abstractmethod
    def _allgather_block(self, block: bytes) -> list[bytes]:
        """Every rank's block, all of one length; returns after all ranks have come."""

    @abstractmethod
    def _allgatherv(self, send: Any | None, recv: Any, counts: Sequence[int]) -> None: ...

    @abstractmethod
    def _alltoallv(self, send: Any, sendcounts: Sequence[int], recv: Any, recvcounts: Sequence[int],
                   largest: int) -> None:
        """Exchange parts; `largest` bounds the length of every rank's buffers and is the same on all ranks."""

    @abstractmethod
    def _broadcast(self, buffer: Any, root: int) -> None: ...

    @abstractmethod
    def _send(self, buffer: Any, dest: int, tag: int) -> None: ...

    @abstractmethod
    def _recv(self, buffer: Any, source: int, tag: int) -> None: ...

    @abstractmethod
    def _dup(self, name: str) -> Communicator: ...

    @abstractmethod
    def _split(self, name: str, color: int | None, members: Sequence[int]) -> Communicator | None:
        """Called on all ranks; `members` are this rank's fellows and itself, none where color is None."""

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _abort(self, message: str, code: int) -> None: ...
