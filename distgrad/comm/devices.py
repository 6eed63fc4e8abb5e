"""Collectives among the ranks' devices: may they be had, and how all ranks come to have them, or none.

    what each rank has -> refusal (the first reason against, if any) -> an id from rank 0 -> every rank joins, in a
    thread, while the ranks tell each other how it goes -> DeviceRanks on all of them, or one reason on all of them

It knows nothing of gradients; which library speaks between devices is the backend's affair.
"""

from __future__ import annotations

import atexit
import json
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from .._typing import Array
from ..backend import Backend, Collectives, Device, of
from .base import Communicator
from .deadline import Deadline, report
from .topology import host, machine

__all__ = ["DeviceRanks", "open_devices", "refusal"]

_LOOK = 0.02   # seconds between two rounds in which the ranks tell each other how far they are
_PROBE = 1024  # elements of the first sum, which shows whether the devices really reach each other
_ADVICE = ("NCCL_DEBUG=INFO in the environment of all ranks shows what it does; NCCL_SOCKET_IFNAME names the network "
           "interface that reaches the other hosts, NCCL_P2P_DISABLE=1 keeps it from direct access between devices")
_WAITING, _LATE, _JOINED = b"", b"late", b"joined"


class DeviceRanks:
    """This rank's end of the collectives among all ranks' devices, for all who use them.

    Attributes:
        collectives: the calls.
    """

    def __init__(self, comm: Communicator, collectives: Collectives) -> None:
        self.comm = comm
        self.collectives = collectives
        self.users = 0
        self._forget = comm.at_close(self._end)
        atexit.register(self._end)

    def close(self) -> None:
        """One user less; the last one gives them back. Collective."""
        self.users -= 1
        if self.users:
            return
        self._drain()
        well = self.collectives.usable  # and when all are there, nobody reads this rank's memory any more
        if all(self.comm.allgather_bytes(b"well" if well else b"")):
            self.collectives.close()
        else:
            self.collectives.abort()
        self._forget()
        self._leave()

    def _end(self) -> None:
        """The communicator or the program ends, and nobody can be asked."""
        self._leave()
        self._drain()
        self.collectives.abort()

    def _leave(self) -> None:
        atexit.unregister(self._end)
        known = _open.get(self.comm, {})
        for places in [places for places, found in known.items() if found is self]:
            del known[places]
        if not known:
            _open.pop(self.comm, None)

    def _drain(self) -> None:
        deadline = Deadline()
        while self.collectives.usable and not self.collectives.done and not deadline.hard_passed():
            time.sleep(_LOOK / 10)


_open: WeakKeyDictionary[Communicator, dict[tuple[str, ...], DeviceRanks]] = WeakKeyDictionary()
_failed: WeakKeyDictionary[Communicator, dict[tuple[str, ...], str]] = WeakKeyDictionary()  # it may take minutes


def open_devices(comm: Communicator, arrays: Sequence[Array], alike: str) -> DeviceRanks | str:
    """Collectives among the devices on which the ranks' arrays lie. Collective.

    They are made once for a communicator and a choice of devices; each caller closes what it got. Devices that could
    not be joined are not tried again on the same communicator.

    Args:
        arrays: this rank's; those of kinds of devices that have no such collectives are passed over.
        alike: what has to be the same on all ranks.

    Returns:
        The collectives; or, on every rank alike, the reason why there are none, empty where no rank has such a device.
    """
    there = sorted({(of(a).name, str(of(a).device_of(a))) for a in arrays if of(a).speaks})
    backend = next((of(a) for a in arrays if of(a).speaks), None)
    device = Device(there[0][1]) if there else None
    known = _open.get(comm, {})
    mine: dict[str, Any] = {"devices": [name for _, name in there], "host": host(), "alike": alike,
                            "lost": any(not found.collectives.usable for found in known.values())}
    if backend is not None and device is not None:
        why = backend.why_no_collectives()
        mine.update(why=why, place=f"{machine()} {backend.identity(device)}",
                    version=0 if why else backend.collectives_version())
    ranks = [json.loads(text) for text in comm.allgather_bytes(json.dumps(mine).encode())]
    if not any(each["devices"] for each in ranks):
        return ""
    if reason := refusal(ranks, comm.ranks):
        return reason
    assert backend is not None and device is not None
    places = tuple(each["place"] for each in ranks)
    if reason := _failed.get(comm, {}).get(places, ""):
        return reason
    found = known.get(places)
    if found is None or any(each["lost"] for each in ranks):
        joined = _join(comm, backend, device)
        if isinstance(joined, str):
            _failed.setdefault(comm, {})[places] = joined
            return joined
        found = _open.setdefault(comm, known)[places] = DeviceRanks(comm, joined)
    found.users += 1
    return found


def refusal(ranks: Sequence[dict[str, Any]], numbers: Sequence[int]) -> str:
    """Why these ranks' devices cannot speak to each other; empty if nothing is known against it.

    Args:
        ranks: for each rank its `devices`, `host` and `alike`, and with a device its `place`, its `version`, and
            `why` it has no collectives.
        numbers: what to call them.
    """
    for number, each in zip(numbers, ranks, strict=True):
        if not each["devices"]:
            return f"rank {number} has its parameters in memory of the host"
        if len(each["devices"]) > 1:
            return f"rank {number}'s parameters lie on {' and '.join(each['devices'])}"
        if each["alike"] != ranks[0]["alike"]:
            return f"other parameters lie on the device of rank {number} than on that of rank {numbers[0]}"
    together: defaultdict[str, list[int]] = defaultdict(list)
    for number, each in zip(numbers, ranks, strict=True):
        together[each["place"]].append(number)
    for sharing in together.values():
        if len(sharing) > 1:
            first = ranks[list(numbers).index(sharing[0])]
            names = f"{', '.join(map(str, sharing[:-1]))} and {sharing[-1]}"
            return f"ranks {names} share {first['devices'][0]} of host {first['host']}"
    for number, each in zip(numbers, ranks, strict=True):
        if each["why"]:
            return f"rank {number} has no NCCL: {each['why']}"
    for number, each in zip(numbers, ranks, strict=True):
        if each["version"] != ranks[0]["version"]:
            return (f"rank {number} has another NCCL ({each['version']}) than rank {numbers[0]} "
                    f"({ranks[0]['version']}): install the same one on all hosts")
    return ""


class _Attempt:
    """Joining, in a thread of its own: it returns when all ranks have come, and that may be never."""

    def __init__(self, comm: Communicator, backend: Backend, device: Device, unique_id: bytes) -> None:
        self.comm, self.backend, self.device, self.unique_id = comm, backend, device, unique_id
        self.ended = threading.Event()
        self.made: Collectives | None = None
        self.problem = ""
        self._given_up = False
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name=f"distgrad devices rank {comm.rank}", daemon=True).start()

    @property
    def state(self) -> bytes:
        """How it stands, as the other ranks hear it."""
        return self.problem.encode() if self.problem else _JOINED if self.ended.is_set() else _WAITING

    def _run(self) -> None:
        try:
            with self.backend.using(self.device):
                made = self.backend.collectives(self.unique_id, self.comm.rank, self.comm.size)
                with self._lock:
                    self.made = made
                    if self._given_up:
                        made.abort()
                        return
                self._try(made)
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
        self.ended.set()

    def _try(self, made: Collectives) -> None:
        """One sum: libraries that have found each other may still fail to reach each other's memory."""
        numbers = self.backend.xp.ones(_PROBE, "float32")
        made.all_reduce(numbers)
        while not made.done:
            if self._given_up:
                return
            made.check()
            time.sleep(_LOOK / 10)
        made.wait()
        found = self.backend.to_host(numbers)
        if not (found == self.comm.size).all():
            raise RuntimeError(f"a sum of ones over {self.comm.size} devices came to {found.min()} up to {found.max()}")

    def give_up(self) -> None:
        """Somebody did not come through: nobody keeps what was made."""
        with self._lock:
            self._given_up = True
            if self.made is not None:
                self.made.abort()


def _join(comm: Communicator, backend: Backend, device: Device) -> Collectives | str:
    """Join all ranks; the outcome is the same on all of them. Collective.

    The ranks speak to each other by messages meanwhile, round after round, so that a rank whose attempt fails is heard
    of by those whose attempt waits for it, and a limit that passes on one of them passes for all.
    """
    unique_id, problem = b"", ""
    if comm.rank == 0:
        try:
            unique_id = backend.collective_id()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
    unique_id = comm.broadcast_bytes(unique_id)
    if not unique_id:
        reason = comm.broadcast_bytes(problem.encode()).decode()
        return f"NCCL cannot begin on rank {comm.ranks[0]}: {reason}. {_ADVICE}"
    attempt = _Attempt(comm, backend, device, unique_id)
    deadline = Deadline()
    while True:
        attempt.ended.wait(_LOOK)
        state = attempt.state
        states = comm.allgather_bytes(_LATE if state == _WAITING and deadline.hard_passed() else state)
        told = list(zip(comm.ranks, states, strict=True))
        if set(states) == {_JOINED}:
            assert attempt.made is not None
            return attempt.made
        for number, theirs in told:
            if theirs not in (_WAITING, _LATE, _JOINED):
                attempt.give_up()
                return f"NCCL failed on rank {number}: {theirs.decode(errors='replace')}. {_ADVICE}"
        missing = f"not there: rank(s) {', '.join(str(number) for number, theirs in told if theirs != _JOINED)}"
        if _LATE in states:
            attempt.give_up()
            return f"NCCL has not joined the devices; {missing}. {_ADVICE}"
        if deadline.soft_passed():
            report(f"rank {comm.ranks[comm.rank]} has waited {deadline.waited:.1f} s for NCCL to join the devices; "
                   f"{missing}. {_ADVICE}")
