"""How convolution goes by cuDNN, over a stand-in for its frontend: what is asked, what is kept, what if it fails."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.gpu.compare import gpu, numbers, there
from tests.gpu.frontend import Library
from tests.gpu.test_windows import CASES, convolved

pytestmark = pytest.mark.skipif("config.getoption('--device') != 'standin'",
                                reason="about a stand-in: --device standin")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    gpu()
    from distgrad.backend.gpu import cudnn

    monkeypatch.setitem(sys.modules, "cudnn", Library())
    monkeypatch.setattr(cudnn, "_mine", cudnn._Thread())
    monkeypatch.setattr(cudnn, "_there", None)
    monkeypatch.setattr(cudnn, "_said", False)
    yield sys.modules["cudnn"]  # type: ignore[misc]


def convolve(batch: int = 2) -> np.ndarray:
    x, weight = there(numbers("float32", 9, 3, 5, 5)[:batch]), there(numbers("float32", 4, 3, 3, 3))
    return gpu().to_host(gpu().kernels.conv2d(x, weight, None, (1, 1), ((1, 1), (0, 2)), (1, 1), 1))


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_each_convolution_is_one_graph(case: str, kind: str, library: Library) -> None:
    convolved(kind, case)
    assert (library.built, library.executed) == ((3, 4) if CASES[case][0][0] else (0, 0))  # with and without bias


def test_a_graph_is_built_once_for_each_geometry(library: Library) -> None:
    first = convolve()
    np.testing.assert_array_equal(convolve(), first)
    assert (library.built, library.executed) == (1, 2)
    convolve(3)
    assert (library.built, library.executed) == (2, 3) and library.streams == [0]


def test_engines_that_round_or_vary_are_refused(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    convolve()
    assert set(library.refused) == {"NONDETERMINISTIC", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION",
                                    "TENSOR_CORE", "WINOGRAD", "FFT"}
    from distgrad.backend.gpu import cudnn

    monkeypatch.setattr(cudnn, "config", dataclasses.replace(cudnn.config, tf32=1))
    convolve(3)
    assert set(library.refused) == {"NONDETERMINISTIC", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION"}


@pytest.mark.parametrize("call", ["create_handle", "conv_fprop", "validate", "check_support", "build_plans", "execute"])
def test_a_failure_is_said_once_and_costs_nothing_else(call: str, library: Library, capsys: Any) -> None:
    expected = convolve()
    library.broken = call
    if call == "create_handle":
        from distgrad.backend.gpu import cudnn

        cudnn._mine.handles.clear()
    np.testing.assert_allclose(convolve(3)[:2], expected, rtol=1e-5, atol=1e-6)
    said = capsys.readouterr().err
    assert said == f"distgrad: a convolution (fprop) does without cuDNN: {call} failed: no engine\n"
    library.broken = ""
    before = library.executed
    convolve(3)  # not tried again
    convolve(5)  # another geometry is
    assert library.executed == before + 1 and not capsys.readouterr().err


def test_it_can_be_left_out(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    from distgrad.backend.gpu import cudnn

    monkeypatch.setattr(cudnn, "config", dataclasses.replace(cudnn.config, cudnn=0))
    convolve()
    assert not library.built


def test_where_it_is_not_installed_nothing_is_said(library: Library, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: Any) -> None:
    from distgrad.backend.gpu import cudnn

    monkeypatch.setattr(cudnn, "find_spec", lambda name: None)
    convolve()
    assert not library.built and cudnn._there is False and not capsys.readouterr().err


def test_a_library_that_cannot_be_loaded_is_said_once(library: Library, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: Any) -> None:
    from distgrad.backend.gpu import cudnn

    def broken(name: str) -> Any:
        raise ImportError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(cudnn.importlib, "import_module", broken)
    convolve()
    convolve(3)
    assert capsys.readouterr().err == ("distgrad: convolution does without cuDNN: libcudnn.so.9: cannot open shared "
                                       "object file\n")
