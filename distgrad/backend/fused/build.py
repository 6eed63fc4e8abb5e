"""From a loop to machine code: numba makes LLVM's intermediate code of it, LLVM an object file for this processor.

The object refers to nothing of Python, so that it can be kept and loaded without numba. Imported only
when a kernel is not in the cache: numba takes half a second to load, and each loop a part of one to compile.
"""

from __future__ import annotations

import importlib

import llvmlite.binding as llvm
from numba import cfunc, types

from .native import Loop

__all__ = ["build"]

_OPTIONS = {"nopython": True, "error_model": "numpy", "boundscheck": False, "_nrt": False}
# What code may call, besides LLVM's own: the C library has it in every process.
_KNOWN = {"memcpy", "memmove", "memset", "sched_yield", "sqrt", "sqrtf"}


def build(loop: Loop, dtype: str, symbol: str, machine: llvm.TargetMachine) -> bytes:
    """Compile a loop for elements of `dtype`; the object file exports it as the C function `symbol`.

    Raises:
        RuntimeError: the code needs something that only Python could give it.
    """
    function = getattr(importlib.import_module(f"{__package__}.loops.{loop.family}"), loop.name)
    element = getattr(types, dtype)
    kinds = {"t": element, "n": types.int64}
    kinds |= {"W": types.CPointer(types.uint32), "H": types.CPointer(types.uint16)}
    for pointer, pointers, pointee in (("T", "P", element), ("D", "Q", types.float64), ("N", "R", types.int64)):
        kinds[pointer] = types.CPointer(pointee)
        kinds[pointers] = types.CPointer(kinds[pointer])
    compiled = cfunc(types.void(*[kinds[letter] for letter in loop.signature]), **_OPTIONS)(function)
    module = llvm.parse_assembly(compiled.inspect_llvm().replace(compiled.native_name, symbol))
    foreign = sorted(function.name for function in module.functions if function.is_declaration
                     and not function.name.startswith("llvm.") and function.name not in _KNOWN)
    if foreign:
        raise RuntimeError(f"the compiled loop {loop.name} calls {', '.join(foreign)}")
    code: bytes = machine.emit_object(module)
    return code
