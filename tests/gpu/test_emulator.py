"""The emulator that stands in for a GPU: blocks, barriers, and kernels that would hang."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.gpu import emulator

pytestmark = pytest.mark.skipif(not emulator.available(), reason="needs g++, which compiles kernels for the processor")
CODE = r"""
extern "C" __global__ void turned(const int* x, int* y) {
    __shared__ int shared[64];
    shared[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    for (int round = 0; round < 3; round++) {
        int other = shared[blockDim.x - 1 - threadIdx.x];
        __syncthreads();
        shared[threadIdx.x] = other;
        __syncthreads();
    }
    y[blockIdx.x * blockDim.x + threadIdx.x] = shared[threadIdx.x];
}

extern "C" __global__ void parted(int* y) {
    __shared__ int shared[64];
    shared[threadIdx.x] = 1;
    if (threadIdx.x) __syncthreads();
    y[threadIdx.x] = shared[0];
}

extern "C" __global__ void counted(int* y) { atomicAdd(y, 1); }
"""


def launched(name: str, blocks: int, threads: int, *arrays: np.ndarray) -> int:
    found = getattr(emulator.compiled(CODE), f"run_{name}")(blocks, threads, *[ctypes.c_void_p(a.ctypes.data)
                                                                              for a in arrays])
    return int(found)


@pytest.mark.parametrize("threads", [1, 64, 32])
def test_threads_meet_at_barriers(threads: int) -> None:
    x, y = np.arange(3 * threads, dtype="int32"), np.empty(3 * threads, "int32")
    assert launched("turned", 3, threads, x, y) == 0
    np.testing.assert_array_equal(y.reshape(3, -1), x.reshape(3, -1)[:, ::-1])


def test_a_kernel_whose_threads_part_at_a_barrier_is_reported() -> None:
    y = np.zeros(8, "int32")
    assert launched("parted", 1, 8, y) == 1
    test_threads_meet_at_barriers(64)  # and others still run


def test_every_thread_runs_once() -> None:
    y = np.zeros(1, "int32")
    assert launched("counted", 5, 7, y) == 0 and y[0] == 35
