"""CUDA C++ on a processor: blocks run one after the other, the threads of one that wait for each other are threads.

It knows what the package's kernels use of CUDA, and no more. Compiled by g++ where that is installed.
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
#include <barrier>
#include <cmath>
#include <thread>
#include <vector>
using namespace std;
struct Place { unsigned x; };
static thread_local Place threadIdx, blockIdx, blockDim, gridDim;
static barrier<>* meeting;
#define __global__
#define __device__
#define __shared__ static
#define __syncthreads() meeting->arrive_and_wait()

template <typename F> void launch(unsigned blocks, unsigned threads, F kernel) {
    for (unsigned b = 0; b < blocks; b++) {
        barrier<> here(threads);
        meeting = &here;
        vector<thread> all;
        for (unsigned t = 0; t < threads; t++) all.emplace_back([=] {
            threadIdx.x = t; blockIdx.x = b; blockDim.x = threads; gridDim.x = blocks;
            kernel();
        });
        for (auto& one : all) one.join();
    }
}
"""
_IN_TURN = r"""
template <typename F> void in_turn(unsigned blocks, unsigned threads, F kernel) {
    for (unsigned b = 0; b < blocks; b++)
        for (unsigned t = 0; t < threads; t++) {
            threadIdx.x = t; blockIdx.x = b; blockDim.x = threads; gridDim.x = blocks;
            kernel();
        }
}
"""
_KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)([^@]*?)(?=extern "C"|\Z)')


def available() -> bool:
    """Whether there is a compiler that can make it."""
    return shutil.which("g++") is not None


@cache
def compiled(code: str) -> Any:
    """A library with `run_NAME(blocks, threads, ...)` for every kernel of the code."""
    runners = ""
    for name, parameters, body in _KERNEL.findall(code):
        way = "launch" if "shared" in body else "in_turn"
        names = ", ".join(part.split()[-1].lstrip("*") for part in parameters.split(","))
        runners += (f'extern "C" void run_{name}(unsigned blocks, unsigned threads, {parameters}) '
                    f"{{ {way}(blocks, threads, [=] {{ {name}({names}); }}); }}\n")
    folder = Path(tempfile.mkdtemp(prefix="distgrad-emulated-"))
    try:
        (folder / "kernels.cpp").write_text(_BEFORE + _IN_TURN + code + runners)
        subprocess.run(["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-pthread", "-w", "-o", folder / "kernels.so",
                        folder / "kernels.cpp"], check=True, timeout=100)
        return ctypes.CDLL(str(folder / "kernels.so"))
    finally:
        shutil.rmtree(folder)
