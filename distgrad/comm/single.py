"""The communicator of one rank: every collective is a copy within this process.

It needs no MPI library and no threads, so that an ordinary interpreter is a world of one. What would
take a second rank (send, recv) is refused by the argument checks of the base class.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Communicator
from .deadline import report

__all__ = ["SelfCommunicator"]


class SelfCommunicator(Communicator):
    """A world of one rank."""

    def __init__(self, name: str = "self") -> None:
        super().__init__(0, 1, name)

    def _allgather_block(self, block: bytes) -> list[bytes]:
        return [block]

    def _allgatherv(self, send: Any | None, recv: Any, counts: Sequence[int]) -> None:
        if send is not None:
            np.copyto(recv, send)

    def _alltoallv(self, send: Any, sendcounts: Sequence[int], recv: Any, recvcounts: Sequence[int],
                   largest: int) -> None:
        np.copyto(recv, send)

    def _broadcast(self, buffer: Any, root: int) -> None:
        """The root's buffer is already everywhere."""

    def _send(self, buffer: Any, dest: int, tag: int) -> None:
        raise AssertionError("a single rank has nobody to send to")

    def _recv(self, buffer: Any, source: int, tag: int) -> None:
        raise AssertionError("a single rank has nobody to receive from")

    def _dup(self, name: str) -> SelfCommunicator:
        return SelfCommunicator(name)

    def _split(self, name: str, color: int | None, members: Sequence[int]) -> SelfCommunicator | None:
        return SelfCommunicator(name) if members else None

    def _close(self) -> None:
        """Nothing is held."""

    def _abort(self, message: str, code: int) -> None:
        sys.stdout.flush()
        if message:
            report(message)
        os._exit(code)
