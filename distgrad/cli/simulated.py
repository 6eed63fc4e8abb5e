"""One script on simulated ranks: each thread runs the file in a namespace of its own.

The ranks' worlds come from `distgrad.distributed.simulate`; here is only the script.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Sequence

from distgrad.cli.script import execute, prepare, trim

__all__ = ["run_simulated"]


def run_simulated(ranks: int, program: Sequence[str], timeout: float | None = None) -> int:
    """Run the program on `ranks` threads and return the exit code; an exception of a rank is shown, and 1.

    Modules that the script imports exist once and are shared by the ranks, unlike in processes.
    """
    from distgrad.distributed import simulate

    def rank_main(rank: int) -> int:
        try:
            execute(code, dict(names))
        except SystemExit as end:
            if end.code is not None and not isinstance(end.code, int):
                print(end.code, file=sys.stderr)
                return 1
            return end.code or 0
        return 0

    watchdog = threading.Timer(timeout, _timed_out, [timeout]) if timeout else None
    if watchdog:
        watchdog.daemon = True
        watchdog.start()
    try:
        code, names = prepare(program)
        return next((found for found in simulate(ranks)(rank_main) if found), 0)
    except Exception as error:
        trim(error)
        traceback.print_exception(error)
        return 1
    finally:
        if watchdog:
            watchdog.cancel()


def _timed_out(seconds: float) -> None:
    print(f"distgrad run: not done after {seconds:g} s; the stacks of all ranks follow", file=sys.stderr, flush=True)
    faulthandler.dump_traceback()
    os._exit(124)  # threads cannot be ended from outside
