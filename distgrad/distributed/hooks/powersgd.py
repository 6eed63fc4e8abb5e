"""PowerSGD (Vogels, Karimireddy and Jaggi, 2019): gradient matrices travel as two thin factors.

    P = mean(M Q);  P made orthonormal;  Q = mean(M' P);  the result is P Q', and M - P Q' is kept for the next time

What the ranks compute from reduced data has the same bits on unlike processors (`factors`); only their own products
M Q and M' P are left to the BLAS.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ..._typing import Array
from ...backend import of
from ...backend.random import Generator
from ...comm import Communicator, Work
from ...comm.arguments import sum_dtype
from ...graph.base import wrap
from ..bucket import Bucket
from ..turns import Parcel
from .base import as_real, between_nodes
from .factors import orthonormal, product

__all__ = ["PowerSGDState", "powerSGD_hook"]


class PowerSGDState:
    """What PowerSGD keeps between backwards; itself a hook: `DataParallel(model, hook=PowerSGDState())`.

    It acts between nodes: the matrices are the sums of a node's gradients, and on one node nothing is compressed.

    A bucket is a piece of flat memory, which may cut through tensors: of each tensor with two dimensions or
    more, the whole rows that lie in it are one matrix (rows times all other dimensions, in memory order).
    What is no matrix, or too small a one, travels uncompressed, in one message with the first factors.
    One state may serve several models.

    Args:
        matrix_approximation_rank: columns of the factors.
        start_powerSGD_iter: backwards of each bucket that are reduced uncompressed before it begins.
        min_compression_rate: a matrix is compressed if its factors are smaller by more than this.
        use_error_feedback: keep what was lost, and add it to the next gradient. It costs as much memory as
            the gradients, and without it the result may not converge.
        warm_start: begin with the last factors, so that successive steps refine them.
        random_seed: of the first factors; the same on every rank.

    Raises:
        ValueError: a rank below 1, or a negative number.
    """

    between_nodes = True

    def __init__(self, *, matrix_approximation_rank: int = 1, start_powerSGD_iter: int = 1000,
                 min_compression_rate: float = 2, use_error_feedback: bool = True, warm_start: bool = True,
                 random_seed: int = 0) -> None:
        if matrix_approximation_rank < 1:
            raise ValueError(f"matrix_approximation_rank is 1 or more, got {matrix_approximation_rank}")
        if start_powerSGD_iter < 0 or min_compression_rate < 0:
            raise ValueError(f"start_powerSGD_iter and min_compression_rate are not negative, got "
                             f"{start_powerSGD_iter} and {min_compression_rate}")
        self.matrix_approximation_rank = matrix_approximation_rank
        self.start_powerSGD_iter = start_powerSGD_iter
        self.min_compression_rate = min_compression_rate
        self.use_error_feedback = use_error_feedback
        self.warm_start = warm_start
        self.random_seed = random_seed
        self._memories: WeakKeyDictionary[Bucket, _Memory] = WeakKeyDictionary()
        self._loaded: dict[str, Any] = {}  # what was loaded for buckets that have not come yet

    def __call__(self, bucket: Bucket, comm: Communicator) -> Work:
        return powerSGD_hook(self, bucket, comm)

    def __repr__(self) -> str:
        return (f"PowerSGDState(matrix_approximation_rank={self.matrix_approximation_rank}, "
                f"start_powerSGD_iter={self.start_powerSGD_iter}, min_compression_rate={self.min_compression_rate}, "
                f"use_error_feedback={self.use_error_feedback}, warm_start={self.warm_start}, "
                f"random_seed={self.random_seed})")

    def _memory(self, bucket: Bucket) -> _Memory:
        found = self._memories.get(bucket)
        if found is None:
            found = self._memories[bucket] = _Memory(self, bucket)
            if (loaded := self._loaded.pop(_place(bucket), None)) is not None:
                found.load(loaded)
        return found

    def state_dict(self) -> dict[str, Any]:
        """What is kept of each bucket: this rank's own. A checkpoint takes it as `PerRank(state)`.

        Raises:
            RuntimeError: it serves several models, whose buckets cannot be told apart.
        """
        places = [_place(bucket) for bucket in self._memories]
        if len(set(places)) < len(places):
            raise RuntimeError("this PowerSGDState serves several models, whose buckets cannot be told apart: give "
                               "each a state of its own")
        return {**self._loaded, **{_place(bucket): memory.save() for bucket, memory in self._memories.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where `state_dict()` was taken, with the same ranks, nodes and size of buckets.

        Raises:
            RuntimeError: at the next backward, if a bucket is cut in another way.
        """
        self._memories.clear()
        self._loaded = dict(state_dict)


def _place(bucket: Bucket) -> str:
    """What a bucket is called in a state."""
    return f"{bucket.group.layout.dtype} {bucket.index} {bucket.begin} {bucket.end}"


@between_nodes
def powerSGD_hook(state: PowerSGDState, bucket: Bucket, comm: Communicator) -> Work:
    """The mean of matrices as a product of two thin ones, approximately; of all else exactly. Two messages a bucket.

    Gradients are means over ranks of rank at most `matrix_approximation_rank`, and with error feedback the
    sum of the results over the steps follows that of the true means. NaN or infinity anywhere in a matrix makes
    all of it NaN, and what is kept for that bucket stays as it was.
    """
    memory = state._memory(bucket)
    memory.calls += 1
    if memory.calls <= state.start_powerSGD_iter or not memory.matrices:
        return bucket.submit(comm.allreduce, bucket.send, bucket.recv)
    return bucket.submit(memory.exchange, bucket, comm)


@dataclass
class _Matrix:
    """Whole rows of one tensor: elements [begin, end) of the bucket."""

    begin: int
    end: int
    rows: int
    cols: int
    rank: int
    q: Array | None = None
    error: Array | None = None

    def of(self, flat: Array) -> Array:
        """This matrix of the bucket's memory, a view."""
        return flat[self.begin:self.end].reshape(self.rows, self.cols)


class _Memory:
    """What is kept for one bucket, and its exchange."""

    def __init__(self, state: PowerSGDState, bucket: Bucket) -> None:
        self.state = state
        self.calls = 0
        self.total = 0.0  # what the contributions weighed when the errors were taken
        self.seed = (state.random_seed, bucket.index, bucket.begin)
        self.matrices: list[_Matrix] = []
        self.rest: list[slice] = []
        self._plan(bucket)

    def _plan(self, bucket: Bucket) -> None:
        """Which parts of the bucket are matrices worth compressing, and which are not."""
        unit = 2 if bucket.send.dtype.kind == "c" else 1  # a complex number is two real columns
        for slot in bucket.group.layout.slots:
            low, high = max(bucket.begin, slot.offset), min(bucket.end, slot.offset + slot.size)
            if low >= high:
                continue
            shape = [slot.shape[d] for d in slot.order]
            cols = slot.size // shape[0] if len(shape) > 1 else 1
            first, last = -(-(low - slot.offset) // cols), (high - slot.offset) // cols
            rows, width = last - first, cols * unit
            rank = min(self.state.matrix_approximation_rank, rows, width)
            begin, end = slot.offset + first * cols, slot.offset + last * cols
            if rows > 0 and (rows + width) * rank * self.state.min_compression_rate < rows * width:
                self.matrices.append(_Matrix((begin - bucket.begin) * unit, (end - bucket.begin) * unit, rows, width,
                                             rank))
            else:
                begin = end = low
            self.rest += [slice((a - bucket.begin) * unit, (b - bucket.begin) * unit)
                          for a, b in ((low, begin), (end, high)) if a < b]

    def save(self) -> dict[str, Any]:
        """What is kept, as tensors of its own memory."""
        arrays = [{name: wrap(array) for name, array in (("q", matrix.q), ("error", matrix.error)) if array is not None}
                  for matrix in self.matrices]
        return {"calls": self.calls, "total": self.total, "matrices": arrays}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over what `save` gave."""
        if len(saved["matrices"]) != len(self.matrices):
            raise RuntimeError(f"the loaded state of PowerSGD has {len(saved['matrices'])} matrices in a bucket, and "
                               f"there are {len(self.matrices)}: it goes with the same layout and options only")
        self.calls, self.total = saved["calls"], saved["total"]
        for matrix, arrays in zip(self.matrices, saved["matrices"], strict=True):
            shapes = {"q": (matrix.cols, matrix.rank), "error": (matrix.rows, matrix.cols)}
            for name, tensor in arrays.items():
                if tuple(tensor.shape) != shapes[name]:
                    raise RuntimeError(f"the loaded state of PowerSGD has {name} of shape {tuple(tensor.shape)}, and "
                                       f"{shapes[name]} is needed: it goes with the same layout and options only")
                setattr(matrix, name, of(tensor.array).xp.array(tensor.array))

    def exchange(self, bucket: Bucket, comm: Communicator, mean: bool) -> None:
        """Both messages, and what follows from them. A job of the wire's thread."""
        send, recv = as_real(bucket.send), as_real(bucket.recv)
        xp = of(send).xp
        total = bucket.total if isinstance(bucket, Parcel) else 1.0
        if not total:  # no rank has data, and what was kept waits until one has
            recv[...] = 0
            return
        wide = sum_dtype(send.dtype)
        with xp.errstate(all="ignore"):  # whoever looks at the gradients finds what is infinite
            inputs = [self._input(matrix, send, wide, total) for matrix in self.matrices]
            found = _mean(xp, [*(send[part].astype(wide, copy=False) for part in self.rest),
                               *(x @ self._start(number, x) for number, x in enumerate(inputs))], comm, mean)
            bases = [orthonormal(xp, p).astype(wide) for p in found[len(self.rest):]]
            factors = _mean(xp, [x.T @ p for x, p in zip(inputs, bases, strict=True)], comm, mean, checked=False)
            for part, values in zip(self.rest, found, strict=False):
                recv[part] = values
            for matrix, p, q in zip(self.matrices, bases, factors, strict=True):
                product(xp, p, q, matrix.of(recv))
        if xp.isfinite(recv).all():  # the same on all ranks, who thus decide alike
            self._remember(inputs, factors, recv, total)

    def _remember(self, inputs: list[Array], factors: list[Array], recv: Array, total: float) -> None:
        """What was lost, and where to begin the next time."""
        self.total = total
        for matrix, x, q in zip(self.matrices, inputs, factors, strict=True):
            if self.state.use_error_feedback:
                x -= matrix.of(recv)
                matrix.error = x
            if self.state.warm_start:
                matrix.q = q

    def _input(self, matrix: _Matrix, send: Array, wide: Any, total: float) -> Array:
        """The gradient, and what was lost before, as heavy as it would have been in this backward."""
        m = matrix.of(send)
        if not self.state.use_error_feedback:
            return m.astype(wide, copy=False)
        if matrix.error is None:
            return m.astype(wide)
        x = matrix.error * (total / self.total)
        x += m
        return x

    def _start(self, number: int, x: Array) -> Array:
        """The factor to begin with, orthonormal; columns that have vanished begin anew, at random."""
        matrix, backend = self.matrices[number], of(x)
        q = backend.xp.zeros((matrix.cols, matrix.rank), x.dtype) if matrix.q is None else matrix.q
        gone = ~q.any(axis=0)
        if gone.any():
            digest = hashlib.blake2b(struct.pack("<5q", *self.seed, number, self.calls), digest_size=7).digest()
            numbers = Generator(int.from_bytes(digest)).numpy.standard_normal((matrix.cols, matrix.rank))
            q = backend.xp.where(gone, backend.from_host(numbers.astype(x.dtype)), q)
        return orthonormal(backend.xp, q).astype(x.dtype)


def _mean(xp: Any, parts: list[Array], comm: Communicator, mean: bool, checked: bool = True) -> list[Array]:
    """The means of several arrays over the ranks, in one message."""
    send = xp.concatenate([part.reshape(-1) for part in parts])
    recv = xp.empty_like(send)
    comm.allreduce(send, recv, mean=mean, checked=checked)
    found, begin = [], 0
    for part in parts:
        found.append(recv[begin:begin + part.size].reshape(part.shape))
        begin += part.size
    return found
