"""Gradients that travel in 16 bits: half the bytes, summed in float32.

A wrapper gives the hook inside it a communicator whose `allreduce` compresses; the rest is that hook's
affair. What all ranks get was rounded once by its owner, and the owner takes the rounded value too, so
every rank has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

from ..._typing import Array
from ...backend import of
from ...comm import Communicator, Work
from ...comm.arguments import reduction
from ...comm.reduction import slice_counts
from ..bucket import Bucket, Hook
from ..turns import name_of
from .base import acts_between_nodes, as_real, between_nodes
from .mean import mean_hook

__all__ = ["bf16_compress_hook", "bf16_compress_wrapper", "fp16_compress_hook", "fp16_compress_wrapper"]


@dataclass(frozen=True)
class _Format:
    """Sixteen bits for a real number: `encode(x, out)` rounds to them, `decode(bits, out)` reads them."""

    name: str
    dtype: str
    encode: Callable[[Array, Array], None]
    decode: Callable[[Array, Array], None]


def _assign(x: Array, out: Array) -> None:
    with of(x).xp.errstate(over="ignore"):
        out[...] = x


_BFLOAT16 = _Format("bf16", "uint16", lambda x, out: of(x).kernels.to_bfloat16(x, out),
                    lambda bits, out: of(bits).kernels.from_bfloat16(bits, out))
_FLOAT16 = _Format("fp16", "float16", _assign, _assign)


class _Narrow:
    """A communicator whose sums travel in 16 bits; what else it does is that of the communicator inside."""

    def __init__(self, comm: Communicator, form: _Format, scratch: dict[str, Array]) -> None:
        self.comm = comm
        self.form = form
        self.scratch = scratch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.comm, name)

    def allreduce(self, send: Array, recv: Array, *, mean: bool = False, checked: bool = True) -> None:
        """The sum over ranks, or the mean: rounded to 16 bits, added in float32 in rank order, and rounded again."""
        comm, form = self.comm, self.form
        if comm.size == 1 or send.dtype.kind not in "fc" or send.dtype == form.dtype:  # nothing to be won
            comm.allreduce(send, recv, mean=mean, checked=checked)
            return
        reduction(send, recv, mean)
        flat, out = (as_real(array.reshape(-1)) for array in (send, recv))
        xp = of(flat).xp
        counts = slice_counts(flat.size, comm.size)
        mine = counts[comm.rank]
        whole = self._room(xp, "whole", form.dtype, flat.size)
        parts = self._room(xp, "parts", form.dtype, mine * comm.size)
        total, part = self._room(xp, "sums", "float32", 2 * mine).reshape(2, mine)
        form.encode(flat, whole)
        comm.alltoallv(whole, counts, parts, [mine] * comm.size, checked=checked)
        form.decode(parts[:mine], total)
        with xp.errstate(all="ignore"):  # an overflow is found by whoever looks at the gradients
            for begin in range(mine, parts.size, mine or 1):
                form.decode(parts[begin:begin + mine], part)
                total += part
            if mean:
                total /= comm.size
        form.encode(total, parts[:mine])
        comm.allgatherv(parts[:mine], whole, counts, checked=False)
        form.decode(whole, out)

    def _room(self, xp: Any, use: str, dtype: str, count: int) -> Array:
        room = self.scratch.get(use)
        if room is None or room.size < count:
            room = self.scratch[use] = xp.empty(count, dtype)
        return room[:count]


class _Compress:
    """A hook around another one."""

    def __init__(self, inner: Hook, form: _Format) -> None:
        self.inner = inner
        self.form = form
        self.between_nodes = acts_between_nodes(inner)
        self._scratch: WeakKeyDictionary[Communicator, dict[str, Array]] = WeakKeyDictionary()

    def __call__(self, bucket: Bucket, comm: Communicator) -> Work:
        scratch = self._scratch.get(comm)
        if scratch is None:
            scratch = self._scratch[comm] = {}
        return self.inner(bucket, cast(Communicator, _Narrow(comm, self.form, scratch)))

    def __repr__(self) -> str:
        return f"{self.form.name}_compress_wrapper({name_of(self.inner)})"


def bf16_compress_wrapper(hook: Hook) -> Hook:
    """Another hook whose sums (`comm.allreduce`) travel in bfloat16; what else it sends goes as it is."""
    return _Compress(hook, _BFLOAT16)


def fp16_compress_wrapper(hook: Hook) -> Hook:
    """Another hook whose sums (`comm.allreduce`) travel in float16; what else it sends goes as it is.

    Beyond 65504 float16 is infinite, and what is summed is what is sent: with gradients that may be large,
    such as those of weighted backwards, take bfloat16.
    """
    return _Compress(hook, _FLOAT16)


_bf16 = bf16_compress_wrapper(mean_hook)
_fp16 = fp16_compress_wrapper(mean_hook)


@between_nodes
def bf16_compress_hook(bucket: Bucket, comm: Communicator) -> Work:
    """The mean, sent between nodes as bfloat16: half the bytes, the range of float32, eight significant bits.

    Each node rounds its sum to nearest (ties to even), the sums are added in float32, and their mean is
    rounded once more. On one node nothing is sent, and nothing is rounded.
    """
    return _bf16(bucket, comm)


@between_nodes
def fp16_compress_hook(bucket: Bucket, comm: Communicator) -> Work:
    """The mean, sent between nodes as float16: half the bytes, eleven significant bits, and less range.

    Each node rounds its sum to nearest, the sums are added in float32, and their mean is rounded once more.
    A node's sum beyond 65504 becomes infinite; below 6e-8 it becomes zero. In weighted backwards gradients
    are multiplied by their weights before they are sent. On one node nothing is sent, and nothing is rounded.
    """
    return _fp16(bucket, comm)
