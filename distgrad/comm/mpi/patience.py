"""How a thread waits for MPI: it looks at a request again and again, and what it does in between is decided here.

[Note: waiting] Inside a blocking call MPI libraries keep the core busy until it returns, all of the time that a slow
network takes. Told to yield, Open MPI offers the core at every look; the thread that computes there takes it for a
whole slice of 3 to 4 ms, and a network of 1 Gbit/s lost two thirds of its rate (measured beside a backward). A thread
that sleeps between looks leaves the core to the other one, and the network busy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

__all__ = ["wait_for"]

_LOOKS = {False: 100, True: 4}  # without a pause, if impatient and if patient
_SHARE = 1 / 8     # of what was waited already is slept before the next look, but
_SHORTEST, _LONGEST = 20e-6, 1e-3  # seconds: what comes meanwhile fits into the buffers of a socket
_offer_core: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


def wait_for(look: Callable[[], Any], patient: bool) -> Any:
    """Call `look()` until it returns something true, and return that.

    Args:
        patient: sleep between looks, for the sake of another thread of this process; else offer the core to others,
            for ranks may be more than cores.
    """
    for _ in range(_LOOKS[patient]):
        if found := look():
            return found
    begin = time.perf_counter()
    while not (found := look()):
        if patient:
            time.sleep(min(max((time.perf_counter() - begin) * _SHARE, _SHORTEST), _LONGEST))
        else:
            _offer_core()
    return found
