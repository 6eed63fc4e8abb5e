"""Whether the ranks made the same call: the header that carries it, and the error when they did not.

Pure functions over bytes and texts. `base.Communicator` moves the headers and raises what is returned.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np

from ..errors import CollectiveMismatchError, CommError, RankFailedError

__all__ = ["INLINE", "Header", "compare_counts", "digest", "disagreement", "refusal"]

# Digest of the call, length of its payload, and the payload's beginning. One size for all operations, so
# that two different ones still meet in one and the same message.
_LAYOUT = struct.Struct("<16sQ232s")

# Payloads up to this length travel within the header.
INLINE = 232

# Marks the description of a call whose arguments were refused on the rank that made it.
_REFUSED = "refused its arguments: "


class Header:
    """The first thing that every checked collective exchanges."""

    __slots__ = ("beginning", "digest", "length")

    def __init__(self, block: bytes) -> None:
        self.digest, self.length, beginning = _LAYOUT.unpack(block)
        self.beginning: bytes = beginning[:self.length]

    @staticmethod
    def pack(digest: bytes, payload: bytes) -> bytes:
        """The bytes of a header."""
        return _LAYOUT.pack(digest, len(payload), payload[:INLINE])


def digest(text: str) -> bytes:
    """Sixteen bytes that differ when two calls do."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def refusal(call: str, error: Exception) -> str:
    """What a rank announces instead of its call when it cannot make it."""
    return f"{call} {_REFUSED}{type(error).__name__}: {error}"


def disagreement(where: str, texts: Sequence[str]) -> CommError:
    """What a rank that did nothing wrong raises; `texts` are the ranks' descriptions of their calls."""
    callers: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        if _REFUSED in text:
            return RankFailedError(f"{where}: rank {rank} raised: {text}", rank)
        callers.setdefault(text, []).append(rank)
    lines = [f"  {'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}: {text}"
             for text, ranks in callers.items()]
    return CollectiveMismatchError("\n".join([f"{where}: the ranks called different collectives:", *lines]))


def compare_counts(where: str, payloads: Sequence[bytes]) -> int:
    """Check that each rank sends what the other expects; the payloads hold send counts, then receive counts.

    Returns the length of the largest buffer on any rank. Raises on all ranks alike.
    """
    size = len(payloads)
    table = np.stack([np.frombuffer(payload, np.int64) for payload in payloads])
    sent, expected = table[:, :size], table[:, size:].T
    wrong = [f"  rank {i} sends {sent[i, j]} elements to rank {j}, which expects {expected[i, j]}"
             for i, j in np.argwhere(sent != expected).tolist()]
    if wrong:
        raise CollectiveMismatchError("\n".join([f"{where}: the counts differ:", *wrong]))
    return int(max(sent.sum(1).max(), sent.sum(0).max()))
