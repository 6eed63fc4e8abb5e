"""Convolution and pooling on the GPU against the reference over numpy: `pytest --device cuda tests/gpu`, or standin."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import numpy as np
import pytest

from distgrad.backend.reference import find
from distgrad.ops.pool import _window
from tests.gpu.compare import every_kind, gpu, needs_a_device, numbers, same, there

pytestmark = needs_a_device

# (batch, channels, size), (outputs, kernel), stride, pads, dilation, groups
CASES = {
    "plain": ((3, 2, 7, 9), (4, 3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "strided": ((2, 3, 9, 8), (5, 3, 3), (2, 3), ((1, 1), (2, 0)), (1, 1), 1),
    "dilated": ((2, 2, 11, 9), (2, 3, 2), (1, 2), ((2, 1), (0, 3)), (2, 3), 1),
    "groups": ((2, 6, 6, 5), (9, 2, 3), (2, 1), ((1, 0), (1, 1)), (1, 2), 3),
    "depthwise": ((2, 4, 5, 5), (4, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    "one place": ((3, 4, 5, 3), (6, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
    "one place, strided": ((2, 3, 5, 6), (4, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "no sample": ((0, 3, 5, 6), (4, 2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "unseen rows": ((1, 2, 8, 8), (3, 1, 2), (3, 3), ((0, 0), (0, 0)), (1, 1), 1),
}


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfolds one sample at a time."""
    gpu()  # loaded first: on the stand-in, this is when the modules are made
    monkeypatch.setattr("distgrad.backend.gpu.kernels.convolve.BYTES", 1)


def convolved(kind: str, case: str) -> None:
    shape, (outputs, *kernel_size), stride, pads, dilation, groups = CASES[case]
    x = numbers(kind, *shape)
    weight, bias = numbers(kind, outputs, shape[1] // groups, *kernel_size, seed=1), numbers(kind, outputs, seed=2)
    geometry, alone = (stride, pads, dilation, groups), shape[0] > 0
    for b in (bias, None):
        same("conv2d", kind, x, weight, b, *geometry, alone=alone)
    y = find("conv2d")(np, x, weight, None, *geometry)
    g = numbers(kind, *y.shape, seed=3)
    same("conv2d_grad_input", kind, g, weight, shape[2:], *geometry, alone=alone)
    same("conv2d_grad_weight", kind, g, x, tuple(kernel_size), *geometry, alone=alone)
    same("conv2d_grad_bias", kind, g, alone=alone and kind != "float16")


@pytest.fixture
def no_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu()
    from distgrad.backend.gpu import cudnn

    monkeypatch.setattr(cudnn, "config", dataclasses.replace(cudnn.config, cudnn=0))


@every_kind
@pytest.mark.parametrize("case", CASES)
def test_convolution(case: str, kind: str, no_cudnn: None) -> None:
    convolved(kind, case)


@every_kind
@pytest.mark.parametrize("case", CASES)
@pytest.mark.skipif(importlib.util.find_spec("cudnn") is None, reason="nvidia-cudnn-frontend is not installed")
def test_convolution_by_cudnn(case: str, kind: str) -> None:
    convolved(kind, case)


@pytest.mark.parametrize("case", ["plain", "groups"])
def test_convolution_in_pieces(case: str, little_memory: None, no_cudnn: None) -> None:
    convolved("float32", case)


def test_convolution_of_halves_and_of_memory_in_pieces() -> None:
    convolved("float16", "strided")
    x, weight = numbers("float32", 6, 3, 9, 8)[::2, :, :, ::-1], numbers("float32", 3, 4, 3, 3).swapaxes(0, 1)
    geometry = (1, 1), ((0, 0), (0, 0)), (1, 1), 1
    expected = find("conv2d")(np, np.ascontiguousarray(x), np.ascontiguousarray(weight), None, *geometry)
    found = gpu().kernels.conv2d(there(numbers("float32", 6, 3, 9, 8))[::2, :, :, ::-1],
                                 there(numbers("float32", 3, 4, 3, 3)).swapaxes(0, 1), None, *geometry)
    np.testing.assert_allclose(gpu().to_host(found), expected, rtol=2e-5, atol=2e-6)


WINDOWS = [((2, 2), (2, 2), (0, 0), (1, 1), False), ((3, 2), (1, 2), (1, 1), (1, 1), False),
           ((3, 3), (2, 2), (1, 0), (2, 1), True), ((2, 3), (3, 1), (0, 1), (1, 2), True),
           ((1, 1), (2, 3), (0, 0), (1, 1), False)]


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
@pytest.mark.parametrize("window", WINDOWS)
def test_maxima(window: Any, kind: str) -> None:
    x = numbers(kind, 2, 3, 7, 9)
    x[0, 1, 2, 3], x[1, 0, :3] = np.nan, -np.inf
    x[1, 2] = np.round(x[1, 2])  # equals
    checked = _window("max_pool2d", x, *window)
    same("max_pool2d", kind, x, *checked.values(), alone=True)
    y, where = find("max_pool2d")(np, x, **checked)
    del checked["out"]
    same("max_pool2d_backward", kind, numbers(kind, *y.shape, seed=1), where, x.shape[2:], *checked.values(),
         alone=True)
    same("max_pool2d_gather", kind, x, where, alone=True)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
@pytest.mark.parametrize("include_pad", [True, False])
@pytest.mark.parametrize("divisor", [None, 5])
@pytest.mark.parametrize("window", [w for w in WINDOWS if w[3] == (1, 1)])
def test_means(window: Any, divisor: int | None, include_pad: bool, kind: str) -> None:
    x = numbers(kind, 2, 3, 7, 9)
    x[0, 1, 2, 3] = np.nan
    checked = _window("avg_pool2d", x, *window)
    del checked["dilation"]
    same("avg_pool2d", kind, x, *checked.values(), include_pad, divisor, alone=True)
    g = numbers(kind, 2, 3, *checked["out"], seed=1)
    same("avg_pool2d_backward", kind, g, x.shape[2:], *checked.values(), include_pad, divisor, alone=True)
