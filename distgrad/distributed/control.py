"""The control message: one short message a backward by which all ranks know the same about each other.

    say(report) ... (the exchange of gradients) ... hear() -> all ranks' reports -> compare

On one node it is left in shared memory before the last counter is raised, so that waiting for the
gradients is waiting for it too; elsewhere it is one gather. It knows no gradients.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..comm import Communicator
from ..comm.shared import NodeMemory
from ..errors import RankFailedError, rank_prefix
from .counters import SAID

__all__ = ["Control", "Flag", "Kind", "NodeControl", "Report", "WireControl", "compare", "message_room"]

_HEADER = struct.Struct("<BBHIddQ")  # kind, flags, length of the error, of the bits, weight, seconds, mark
_ERROR = 1000  # bytes of an error's text that travel


class Kind(enum.IntEnum):
    """What a rank called."""

    PLAIN = 0
    WEIGHTED = 1


_CALLS: dict[int, str] = {Kind.PLAIN: "loss.backward()", Kind.WEIGHTED: "model.backward(loss, weight)"}


class Flag(enum.IntFlag):
    """What else a rank has to tell."""

    JOINED = 1  # it has no more data, and only takes part for the others' sake
    STOP = 2    # it was asked to stop
    LOST = 4    # its device can exchange nothing any more


@dataclass(slots=True)
class Report:
    """What one rank says of itself.

    Attributes:
        kind, flags: of Kind and of Flag, as plain numbers, which are faster to make.
        weight: that of its loss, in a weighted backward.
        seconds: how long it worked since the last backward ended, waiting not counted.
        mark: a fingerprint of what must be the same on all ranks; 0 says nothing.
        error: why its backward raised, if it did.
        bits: for each parameter, 1 if it has a gradient, 2 if it has a late one.
    """

    kind: int
    flags: int
    weight: float
    seconds: float
    mark: int
    error: str
    bits: bytes

    def pack(self) -> bytes:
        """As bytes; a long error loses its end."""
        error = self.error.encode()[:_ERROR]
        return _HEADER.pack(self.kind, self.flags, len(error), len(self.bits), self.weight, self.seconds,
                            self.mark) + error + self.bits

    @classmethod
    def unpack(cls, data: bytes) -> Report:
        """From bytes."""
        kind, flags, error, bits, weight, seconds, mark = _HEADER.unpack_from(data)
        middle = _HEADER.size + error
        text = data[_HEADER.size:middle].decode(errors="replace") if error else ""
        return cls(kind, flags, weight, seconds, mark, text, data[middle:middle + bits])


def message_room(parameters: int) -> int:
    """Bytes that the messages of a model need in every rank's memory: two, for one may still be read."""
    return 2 * _room(parameters)


def _room(parameters: int) -> int:
    return -(-(_HEADER.size + _ERROR + parameters) // 64) * 64


class Control(Protocol):
    """Carries one report a backward."""

    def say(self, report: Report) -> None:
        """Leave this rank's."""

    def hear(self) -> list[Report]:
        """All ranks' reports, in rank order."""


class WireControl:
    """By a gather among all ranks."""

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm
        self._message = b""

    def say(self, report: Report) -> None:
        """Keep it for the gather."""
        self._message = report.pack()

    def hear(self) -> list[Report]:
        """All ranks' reports, in rank order."""
        return [Report.unpack(message) for message in self.comm.allgather_bytes(self._message)]


class NodeControl:
    """Through memory that all ranks of the one node share."""

    def __init__(self, memory: NodeMemory, parameters: int) -> None:
        self.memory = memory
        room = _room(parameters)
        self._places = [[memoryview(block[begin:begin + room]) for begin in
                         (block.size - 2 * room, block.size - room)] for block in memory.blocks]
        self._mine = self._places[memory.comm.rank]
        self._said = 0

    def say(self, report: Report) -> None:
        """Leave it, where the one before the last was: that one has been read by all."""
        message = report.pack()
        self._said += 1
        self._mine[self._said % 2][:len(message)] = message
        self.memory.raise_counter(SAID, self._said)

    def hear(self) -> list[Report]:
        """All ranks' reports, in rank order."""
        self.memory.wait(SAID, self._said, "the control message")
        return [Report.unpack(bytes(place[self._said % 2])) for place in self._places]


def compare(reports: Sequence[Report], rank: int, label: str) -> None:
    """Are all ranks well, and did they do the same?

    Raises:
        RankFailedError: another rank's backward raised, or was of another kind, or its options differ.
    """
    mine = reports[rank]
    for report in reports:
        if report.error or report.kind != mine.kind or report.mark != mine.mark:
            break
    else:
        return
    for other, report in enumerate(reports):
        if report.error and other != rank:
            raise RankFailedError(f"{rank_prefix()}{label}: backward raised on rank {other}: {report.error}", other)
    for other, report in enumerate(reports):
        if report.kind != mine.kind:
            raise RankFailedError(f"{rank_prefix()}{label}: rank {other} called {_CALLS[report.kind]}, this rank "
                                  f"{_CALLS[mine.kind]}; a step's gradients are of one kind on all ranks", other)
    for other, report in enumerate(reports):
        if report.mark != mine.mark and report.mark and mine.mark:
            raise RankFailedError(f"{rank_prefix()}{label}: the options of the last optimizer step differ between "
                                  f"rank {other} and this one; change learning rates and the like on all ranks alike",
                                  other)
