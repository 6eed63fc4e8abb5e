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

// Threads are contexts with a stack of their own; a barrier goes back to the loop that lets each run in its turn.
static const size_t STACK = 1 << 15;
static ucontext_t turn;
static vector<ucontext_t> threads;
static vector<char> stacks, ended;
static void (*body)(void*);
static void* arguments;

static void __syncthreads() { swapcontext(&threads[threadIdx.x], &turn); }

static void begin() { body(arguments); ended[threadIdx.x] = 1; }

template <typename F> int together(unsigned blocks, unsigned width, F kernel) {
    if (threads.size() < width) { threads.resize(width); ended.resize(width); stacks.resize(STACK * width); }
    body = [](void* given) { (*(F*)given)(); };
    arguments = &kernel;
    blockDim.x = width; gridDim.x = blocks;
    for (unsigned b = 0; b < blocks; b++) {
        blockIdx.x = b;
        for (unsigned t = 0; t < width; t++) {
            getcontext(&threads[t]);
            threads[t].uc_stack.ss_sp = &stacks[STACK * t];
            threads[t].uc_stack.ss_size = STACK;
            threads[t].uc_link = &turn;
            ended[t] = 0;
            makecontext(&threads[t], begin, 0);
        }
        for (unsigned left = width; left;) {
            unsigned gone = 0;
            for (unsigned t = 0; t < width; t++) {
                threadIdx.x = t;
                swapcontext(&turn, &threads[t]);
                gone += ended[t];
            }
            if (gone && gone < left) return 1;
            left -= gone;
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
        subprocess.run(["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-o", folder / "kernels.so",
                        folder / "kernels.cpp"], check=True, timeout=100)
        return ctypes.CDLL(str(folder / "kernels.so"))
    finally:
        shutil.rmtree(folder)
