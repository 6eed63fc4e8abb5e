"""CUDA C++ on a processor: blocks run one after the other, and so do a block's threads, from one barrier to the next.

It knows what the package's kernels use of CUDA, and no more. Compiled by g++ where that is installed. A kernel in which
some threads of a block wait at a barrier that others have passed by is reported: on a GPU it would hang or be wrong.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["available", "compiled"]

_BEFORE = r"""
#include <cmath>
#include <csetjmp>
#include <ucontext.h>
#include <vector>
using namespace std;
struct Place { unsigned x; };
static Place threadIdx, blockIdx, blockDim, gridDim;
#define __global__
#define __device__
#define __shared__ static
#define __restrict__

template <typename V> V atomicAdd(V* where, V value) { V before = *where; *where += value; return before; }

// A thread of the block is a stack of its own, made once and used for one launch after the other. A barrier goes back
// to the loop that lets each thread run in its turn: by longjmp, which costs a hundredth of swapcontext.
struct Strand { ucontext_t first; jmp_buf here; char* stack; bool begun, ended; };
static const size_t STACK = 1 << 15;
static vector<Strand*> strands;
static jmp_buf turn;
static ucontext_t nowhere;
static void (*body)(void*);
static void* arguments;

static void __syncthreads() { if (!_setjmp(strands[threadIdx.x]->here)) _longjmp(turn, 1); }

static void live() {
    for (;;) {
        body(arguments);
        strands[threadIdx.x]->ended = true;
        __syncthreads();
    }
}

static void run(unsigned t) {
    threadIdx.x = t;
    if (_setjmp(turn)) return;
    Strand* strand = strands[t];
    if (strand->begun) _longjmp(strand->here, 1);
    strand->begun = true;
    getcontext(&strand->first);
    strand->first.uc_stack.ss_sp = strand->stack;
    strand->first.uc_stack.ss_size = STACK;
    makecontext(&strand->first, live, 0);
    swapcontext(&nowhere, &strand->first);
}

template <typename F> int together(unsigned blocks, unsigned width, F kernel) {
    while (strands.size() < width) strands.push_back(new Strand{{}, {}, new char[STACK], false, false});
    body = [](void* given) { (*(F*)given)(); };
    arguments = &kernel;
    blockDim.x = width; gridDim.x = blocks;
    for (unsigned b = 0; b < blocks; b++) {
        blockIdx.x = b;
        for (unsigned t = 0; t < width; t++) strands[t]->ended = false;
        bool back = false;  // up to every other barrier in the opposite order: a race shows
        for (unsigned gone = 0; !gone; back = !back) {
            for (unsigned i = 0; i < width; i++) {
                unsigned t = back ? width - 1 - i : i;
                run(t);
                gone += strands[t]->ended;
            }
            if (gone && gone < width) { strands.clear(); return 1; }  // those that still wait are left where they are
        }
    }
    return 0;
}

template <typename F> int in_turn(unsigned blocks, unsigned width, F kernel) {
    blockDim.x = width; gridDim.x = blocks;
    for (unsigned b = 0; b < blocks; b++)
        for (unsigned t = 0; t < width; t++) {
            threadIdx.x = t; blockIdx.x = b;
            kernel();
        }
    return 0;
}
"""
_KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)([^@]*?)(?=extern "C"|\Z)')


def available() -> bool:
    """Whether there is a compiler that can make it."""
    return shutil.which("g++") is not None


@cache
def compiled(code: str) -> Any:
    """A library with `run_NAME(blocks, threads, ...)` for every kernel of the code, which answers 0 if all is well."""
    runners = ""
    for name, parameters, body in _KERNEL.findall(code):
        way = "together" if "shared" in body else "in_turn"
        names = ", ".join(part.split()[-1].lstrip("*") for part in parameters.split(","))
        runners += (f'extern "C" int run_{name}(unsigned blocks, unsigned threads, {parameters}) '
                    f"{{ return {way}(blocks, threads, [=] {{ {name}({names}); }}); }}\n")
    folder = Path(tempfile.mkdtemp(prefix="distgrad-emulated-"))
    try:
        (folder / "kernels.cpp").write_text(_BEFORE + code + runners)
        subprocess.run(["g++", "-std=c++20", "-O1", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-w", "-o",
                        folder / "kernels.so", folder / "kernels.cpp"], check=True, timeout=100)
        return ctypes.CDLL(str(folder / "kernels.so"))
    finally:
        shutil.rmtree(folder)
