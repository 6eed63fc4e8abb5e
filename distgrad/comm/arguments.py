"""What a collective accepts: contiguous numpy buffers, matching counts and dtypes.

Each function raises TypeError or ValueError in the caller's words, or returns the description of the
call that all ranks must agree on. It knows nothing of transports; `base.Communicator` sends what it
returns to the other ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import DeviceArray, of

__all__ = ["RESERVED_TAG", "broadcast", "check_color", "check_rank", "concatenation", "exchange", "may_share_memory",
           "message", "reduction", "scattered_sum", "sum_dtype"]

_ARRAYS: Any = (np.ndarray, DeviceArray)  # a device's come here only where MPI takes them; see staging

# The largest tag that every MPI allows; transports use it for messages of their own.
RESERVED_TAG = 32767

_SUMMED_WIDER = ("float16", "bfloat16")


def reduction(send: Any, recv: Any, mean: bool) -> str:
    """Check an elementwise sum over ranks, and describe it."""
    _buffer("send", send)
    _target("recv", recv)
    _same_dtype(send, recv)
    if send.shape != recv.shape:
        raise ValueError(f"recv has shape {recv.shape}, send has {send.shape}: they must be equal")
    if send is not recv and _address(send) != _address(recv) and np.may_share_memory(send, recv):
        raise ValueError("send and recv overlap in part: pass the same buffer twice, or two separate ones")
    _summable(send.dtype, mean)
    return f"{_what(send)}{', mean' if mean else ''}"


def scattered_sum(send: Any, recv: Any, counts: Sequence[int], rank: int, size: int, mean: bool) -> str:
    """Check a sum over ranks of which each rank keeps its part, and describe it."""
    _buffer("send", send)
    _target("recv", recv)
    _same_dtype(send, recv)
    _counts("counts", counts, size)
    _length("send", send, sum(counts), "the sum of counts")
    _length("recv", recv, counts[rank], f"counts[{rank}]")
    _apart(send, recv)
    _summable(send.dtype, mean)
    return f"{send.dtype}, counts {list(counts)}{', mean' if mean else ''}"


def concatenation(send: Any, recv: Any, counts: Sequence[int], rank: int, size: int) -> str:
    """Check a gathering of every rank's part on all ranks, and describe it."""
    _buffer("send", send)
    _target("recv", recv)
    _same_dtype(send, recv)
    _counts("counts", counts, size)
    _length("send", send, counts[rank], f"counts[{rank}]")
    _length("recv", recv, sum(counts), "the sum of counts")
    equal = all(count == counts[0] for count in counts)
    return f"{send.dtype}, " + (f"{counts[0]} from each rank" if equal else f"counts {list(counts)}")


def exchange(send: Any, sendcounts: Sequence[int], recv: Any, recvcounts: Sequence[int], size: int) -> str:
    """Check an all-to-all exchange, and describe what must be equal on all ranks: the dtype."""
    _buffer("send", send)
    _target("recv", recv)
    _same_dtype(send, recv)
    _counts("sendcounts", sendcounts, size)
    _counts("recvcounts", recvcounts, size)
    _length("send", send, sum(sendcounts), "the sum of sendcounts")
    _length("recv", recv, sum(recvcounts), "the sum of recvcounts")
    _apart(send, recv)
    return str(send.dtype)


def broadcast(buffer: Any, root: int, rank: int, size: int) -> str:
    """Check a broadcast in place, and describe it."""
    check_rank("root", root, size)
    if rank == root:
        _buffer("buffer", buffer)
    else:
        _target("buffer", buffer)
    return f"{_what(buffer)}, from rank {root}"


def message(role: str, buffer: Any, peer: int, tag: int, rank: int, size: int) -> None:
    """Check one side of a point-to-point message; role is 'dest' or 'source'."""
    check_rank(role, peer, size)
    if peer == rank:
        raise ValueError(f"{role} {peer} is this rank itself: copy the buffer instead")
    if not isinstance(tag, int) or not 0 <= tag < RESERVED_TAG:
        raise ValueError(f"tag must be an int from 0 to {RESERVED_TAG - 1}, got {tag!r}")
    (_buffer if role == "dest" else _target)("buffer", buffer)


def check_rank(role: str, rank: Any, size: int) -> None:
    """Refuse a number that is no rank of this communicator."""
    if not isinstance(rank, int) or not 0 <= rank < size:
        raise ValueError(f"{role} must be a rank from 0 to {size - 1}, got {rank!r}")


def check_color(color: Any, key: Any) -> None:
    """Refuse what does not say into which part a rank goes when a communicator is split."""
    if color is not None and (not isinstance(color, int) or color < 0):
        raise ValueError(f"color must be None or an int from 0, got {color!r}")
    if not isinstance(key, int):
        raise TypeError(f"key must be an int, got {type(key).__name__}")


def sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which values of `dtype` are summed: float32 for the 16-bit floats, else itself."""
    return np.dtype(np.float32) if dtype.name in _SUMMED_WIDER else dtype


def _buffer(role: str, array: Any) -> None:
    if not isinstance(array, _ARRAYS):
        raise TypeError(f"{role} must be a numpy array, got {type(array).__name__}")
    if array.dtype.hasobject:
        raise TypeError(f"{role} has dtype {array.dtype}: Python objects cannot be exchanged")
    if not array.flags.c_contiguous:
        raise ValueError(f"{role} of shape {array.shape} and strides {array.strides} is not contiguous: "
                         "pass numpy.ascontiguousarray of it")


def _target(role: str, array: Any) -> None:
    _buffer(role, array)
    if not getattr(array.flags, "writeable", True):
        raise ValueError(f"{role} is read-only, but results are written to it")


def _same_dtype(send: Any, recv: Any) -> None:
    if send.dtype != recv.dtype:
        raise TypeError(f"send has dtype {send.dtype} and recv {recv.dtype}: they must be equal")


def may_share_memory(a: Any, b: Any) -> bool:
    """Whether two buffers of one kind may overlap; of two kinds they do not."""
    if isinstance(a, np.ndarray) or type(a) is not type(b):
        return isinstance(b, np.ndarray) and np.may_share_memory(a, b)
    return bool(of(a).xp.may_share_memory(a, b))


def _apart(send: Any, recv: Any) -> None:
    if may_share_memory(send, recv):
        raise ValueError("send and recv share memory: this collective needs separate buffers")


def _summable(dtype: np.dtype[Any], mean: bool) -> None:
    wide = sum_dtype(dtype)
    if wide.kind not in "iufc":
        raise TypeError(f"{dtype} cannot be summed over ranks: convert it to a number type first")
    if mean and wide.kind not in "fc":
        raise TypeError(f"the mean of {dtype} is not exact: sum it, or convert it to floating point")


def _counts(role: str, counts: Sequence[int], size: int) -> None:
    if len(counts) != size:
        raise ValueError(f"{role} has {len(counts)} entries, but there are {size} ranks")
    if any(count < 0 for count in counts):
        raise ValueError(f"{role} has a negative entry: {list(counts)}")


def _length(role: str, array: Any, expected: int, source: str) -> None:
    if array.size != expected:
        raise ValueError(f"{role} has {array.size} elements, but {source} is {expected}")


def _what(array: Any) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])
