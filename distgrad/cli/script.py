"""Turning `script.py args` or `-m module args` into code that runs as `__main__`.

It prepares `sys.argv` and `sys.path` as Python itself does. Where it runs, in a rank's process
or on a simulated rank's thread, is up to the caller.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader
from types import CodeType
from typing import Any

__all__ = ["execute", "prepare", "trim"]


def prepare(program: Sequence[str]) -> tuple[CodeType, dict[str, Any]]:
    """Compile the program and set `sys.argv` and `sys.path` for it.

    Returns the code and the names that its namespace starts with; a dict to be copied for each run.

    Raises:
        SyntaxError, OSError, ImportError: as Python would, for the same program.
    """
    if program[0] == "-m":
        return _module(program[1], program[2:])
    path = program[0]
    sys.argv[:] = program
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    return code, {"__name__": "__main__", "__file__": path, "__package__": None}


def execute(code: CodeType, namespace: dict[str, Any]) -> None:
    """Run prepared code in a namespace."""
    exec(code, namespace)


def trim(error: BaseException) -> None:
    """Let the traceback begin in the script, as if Python itself had run it: drop the frames that led there."""
    step = error.__traceback__
    while step:
        if step.tb_frame.f_code.co_filename == __file__:
            error.__traceback__ = step.tb_next
        step = step.tb_next


def _module(name: str, args: Sequence[str]) -> tuple[CodeType, dict[str, Any]]:
    sys.path[0] = os.getcwd()
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    code = spec.loader.get_code(spec.name) if spec and isinstance(spec.loader, InspectLoader) else None
    if spec is None or code is None:
        raise ImportError(f"there is no module named {name} that can be run", name=name)
    sys.argv[:] = [spec.origin or name, *args]
    return code, {"__name__": "__main__", "__file__": spec.origin, "__package__": spec.parent, "__spec__": spec}
