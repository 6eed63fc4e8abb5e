"""Starting a job again after it failed, a limited number of times.

It knows attempts and exit codes. Where a job goes on from is the script's affair: it resumes from
its newest checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from distgrad.cli.supervise import Ended

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "persist"]

FIRST_PAUSE = 1.0  # seconds; each pause is twice the one before
LONGEST_PAUSE = 60.0
USAGE = 2  # what argparse and shells exit with when a command line is wrong: it will not be right the next time
INTERRUPTED = 130


def persist(attempt: Callable[[], Ended], restarts: int, sleep: Callable[[float], None] = time.sleep) -> int:
    """Call `attempt` until it ends with 0, at most 1 + `restarts` times; returns the last exit code.

    What is not tried again: a job that was asked to end (Ctrl-C, SIGTERM, SIGHUP, a scheduler's
    SIGUSR2), and exit code 2, a script that was called wrongly.
    """
    pause = FIRST_PAUSE
    for number in range(1, restarts + 2):
        ended = attempt()
        if ended.code in (0, USAGE) or ended.asked:
            return ended.code
        if number > restarts:
            if restarts:
                _say(f"exit code {ended.code} at attempt {number}, which was the last of --max-restarts {restarts}")
            return ended.code
        _say(f"exit code {ended.code}; attempt {number + 1} of {restarts + 1} starts in {pause:g} s")
        try:
            sleep(pause)
        except KeyboardInterrupt:
            return INTERRUPTED
        pause = min(2 * pause, LONGEST_PAUSE)
    raise AssertionError("the last attempt returns")


def _say(text: str) -> None:
    print(f"distgrad run: {text}", file=sys.stderr, flush=True)
