"""What each rank of `distgrad run` executes: MPI first, then the hooks that end a job, then the script.

`python -m distgrad.cli.child script.py args` may also be started by any mpiexec or srun directly.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from distgrad.cli.script import execute, prepare, trim
from distgrad.comm import abort
from distgrad.comm.topology import world_communicator

__all__ = ["main"]


def main(program: Sequence[str]) -> None:
    """Run `script.py args` or `-m module args` as `__main__` on this rank of the world."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # `distgrad run --timeout` and people ask with it
    try:
        world = world_communicator()
    except (ImportError, RuntimeError) as error:  # no MPI, or the wrong one: what to do is in the text
        raise SystemExit(f"distgrad: {error}") from None
    abort.install(world)
    module = ModuleType("__main__")
    try:
        code, names = prepare(program)
        vars(module).update(names)
        sys.modules["__main__"] = module
        execute(code, vars(module))
    except Exception as error:
        trim(error)
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(sys.argv[1:])
