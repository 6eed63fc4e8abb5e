"""Loops as C functions of this process, loaded from the cache on disk or built and put there.

Loading needs llvmlite alone and takes milliseconds. What is kept is machine code with a checksum, no
pickle; its folder belongs to this user alone, and its name says sources, versions and processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from ...config import launcher
from .store import Store

__all__ = ["LOOPS", "Loop"]

LOOPS: list[Loop] = []


@dataclass(frozen=True)
class Loop:
    """A function in `loops`, for elements of a dtype that is chosen when it is asked for.

    Attributes:
        family: its file in `loops`.
        signature: a letter an argument: T, D, N pointers to elements, doubles and integers, P, Q, R to such
            pointers, W and H to whole and half words of 32 bits; t an element, n an integer.
    """

    family: str
    name: str
    signature: str

    def __post_init__(self) -> None:
        LOOPS.append(self)

    def __call__(self, dtype: str | None) -> Callable[..., None] | None:
        """The loop for elements of `dtype`, as a C function that releases the interpreter's lock.

        None where it cannot be had (a numba that does not fit this numpy, for example), which is said once:
        that costs time, not the run.
        """
        return None if dtype is None else _native(self, dtype)


_WORTH_SAYING = 1.0  # seconds
_SOURCES = ("build.py", "native.py", "tiles.py", "*vector*.py")  # what loops are made of and by

_lock = threading.Lock()
_spent = 0.0
_said = False
_engines: list[Any] = []  # code lives as long as its engine


@cache
def _native(loop: Loop, dtype: str) -> Callable[..., None] | None:
    with _lock:
        try:
            return _function(loop, dtype, _obtain(loop, dtype))
        except Exception as error:
            _say(f"kernels cannot be compiled, numpy's are used: {type(error).__name__}: {error}")
            return None


def _obtain(loop: Loop, dtype: str) -> bytes:
    begin = time.monotonic()
    source = (Path(__file__).parent / "loops" / f"{loop.family}.py").read_bytes()
    store, file = _store(), f"{loop.name}-{dtype}-{hashlib.sha256(source).hexdigest()[:8]}.o"
    code = store.read(file)
    if code is not None:
        return code
    with store.alone(lambda: store.read(file)) as code:  # many ranks start at once: one compiles, the others wait
        if code is None:
            from .build import build

            code = build(loop, dtype, _symbol(loop, dtype), _machine())
            store.write(file, code)
    _note(time.monotonic() - begin, store)
    return code


def _note(seconds: float, store: Store) -> None:
    """Say where the time goes."""
    global _spent
    _spent += seconds
    if _spent > _WORTH_SAYING:
        kept = f"kept in {store.folder}" if store.folder else f"not kept for the next run: {store.reason}"
        _say(f"compiling kernels for this processor took {_spent:.1f} s so far; they are {kept}")


def _say(text: str) -> None:
    """One line, once, on one rank."""
    global _said
    started = launcher()
    if not _said and (started is None or not started.rank):
        _said = True
        print(f"distgrad: {text}", file=sys.stderr)


def _symbol(loop: Loop, dtype: str) -> str:
    return f"distgrad_{loop.name}_{dtype}"


def _function(loop: Loop, dtype: str, code: bytes) -> Callable[..., None]:
    element = ctypes.c_float if dtype == "float32" else ctypes.c_double
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    scalars: dict[str, Any] = {"t": element, "n": ctypes.c_int64}
    prototype = ctypes.CFUNCTYPE(None, *[scalars.get(letter, ctypes.c_void_p) for letter in loop.signature])
    return prototype(engine.get_function_address(_symbol(loop, dtype)))


def _processor() -> tuple[str, str]:
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _machine() -> llvm.TargetMachine:
    with suppress(RuntimeError):  # needed by older releases, refused by newer ones
        llvm.initialize()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = _processor()
    return llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=3,
                                                                   codemodel="jitdefault", jit=True)


@cache
def _store() -> Store:
    """Where code made by these sources and libraries for this processor is kept."""
    folder = Path(__file__).parent
    parts = [llvm.get_default_triple(), *_processor(), version("numba"), version("llvmlite"), sys.version]
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in sorted(path for pattern in _SOURCES for path in folder.glob(pattern)):
        digest.update(source.read_bytes())
    return Store(f"kernels-{digest.hexdigest()[:16]}")
