"""What is said where no CUDA device can be used; and the CUDA backend over a stand-in, in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import distgrad as dg
from distgrad import cuda, nn
from tests.gpu import emulator

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cpu', 'strict')", reason="about hosts alone")


def refused(match: str) -> None:
    """All ways to a GPU say so, and what may be asked anywhere answers that there is none."""
    for way in (lambda: dg.zeros(2, device="cuda"), lambda: dg.ones(1, device="cpu").cuda(),
                lambda: nn.Linear(2, 2).to("cuda"), lambda: dg.set_default_device("cuda"), cuda.synchronize,
                cuda.current_device, lambda: nn.Linear(2, 2).cuda(0), lambda: dg.ones(1, device="cpu").to("cuda:0")):
        with pytest.raises(RuntimeError, match=match):
            way()
    assert not cuda.is_available() and cuda.device_count() == 0
    assert cuda.memory_allocated() == cuda.memory_reserved() == 0
    cuda.empty_cache()


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="cupy is installed")
def test_no_cupy() -> None:
    refused(r'needs cupy, which is not installed: pip install "distgrad\[cuda12\]"')
    assert dg.device("cuda:1").index == 1 and dg.device("cuda") != dg.device("cuda:0")


def test_a_cupy_that_cannot_be_loaded(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libcublas.so.12: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", lambda name, *a: broken(name) if name == "cupy" else
                        __import__(name, fromlist=["x"]))
    refused(r"cannot be loaded \(libcublas.*pip install")


def test_no_driver(cupy: Any) -> None:
    cupy.driver = 0
    refused("needs NVIDIA's driver, which is not here.*device='cpu'")


def test_a_driver_that_is_older_than_cupys_cuda(cupy: Any) -> None:
    cupy.driver, cupy.runtime = 12040, 13000
    refused(r'driver supports CUDA 12\.4, but cupy was built for CUDA 13\.0: pip uninstall cupy-cuda13x.*\[cuda12\]')


def test_a_driver_for_which_there_is_no_cupy(cupy: Any) -> None:
    cupy.driver = 11080
    refused(r"driver supports CUDA 11\.8, but cupy was built for CUDA 12\.9: install a newer driver$")


def test_no_libraries(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = sys.modules["cupy"]

    def missing() -> Any:
        raise OSError("libnvrtc.so.12: no such file\nlooked everywhere")

    monkeypatch.setattr(found.cuda.nvrtc, "getVersion", missing)
    refused(r'does not find the libraries of CUDA \(libnvrtc.so.12: no such file\): pip install "distgrad\[cuda12\]"')
    monkeypatch.setattr(found.cuda.nvrtc, "getVersion", lambda: (12, 9))
    monkeypatch.delattr(sys.modules["cupy_backends.cuda.libs"], "cublas")
    monkeypatch.delitem(sys.modules, "cupy_backends.cuda.libs.cublas")
    refused("does not find the libraries of CUDA .*cublas")


def test_no_device(cupy: Any) -> None:
    cupy.devices = 0
    refused("no CUDA device is visible.*CUDA_VISIBLE_DEVICES")
    cupy.broken = "cudaErrorNoDevice: no CUDA-capable device is detected"
    refused("no CUDA device can be used: cudaErrorNoDevice.*nvidia-smi")


def test_a_device_that_comes_later_is_found(cupy: Any) -> None:
    cupy.devices = 0
    assert not cuda.is_available()
    cupy.devices = 2
    assert cuda.is_available() and cuda.device_count() == 2


def test_devices_by_number(cupy: Any) -> None:
    cupy.devices = 2
    with pytest.raises(RuntimeError, match=r"cuda:2 is not here: there are 2 CUDA devices, cuda:0 to cuda:1"):
        dg.zeros(2, device="cuda:2")
    cupy.devices = 1
    with pytest.raises(RuntimeError, match=r"cuda:1 is not here: there is one CUDA device, cuda:0"):
        dg.ones(2, device="cpu").cuda(1)
    with pytest.raises(RuntimeError, match="is no CUDA device"):
        cuda.set_device("cpu")
    assert cuda.current_device() == 0 and cuda.get_device_name() == "Stand-in"
    with cuda.device(0):
        cuda.synchronize()
    assert dg.zeros(2, device="cuda").device == dg.device("cuda:0")
    assert dg.zeros(2, device="cuda").is_cuda and not dg.zeros(2, device="cpu").is_cuda


def test_a_full_device_says_what_fills_it_and_goes_on_with_less(cupy: Any) -> None:
    cupy.memory = 1 << 20
    small = dg.ones(100, device="cuda")
    message = r"cuda:0 has no 4\.0 MiB left: of 16 MiB, 7 are free, 3 hold.*2 are kept.*smaller batch"
    with pytest.raises(cuda.OutOfMemoryError, match=message) as caught:
        dg.empty(1 << 20, device="cuda")
    assert isinstance(caught.value, RuntimeError)
    assert (small + dg.ones(100, device="cuda")).sum().item() == 200
    assert cuda.memory_allocated() == 3 << 20 and cuda.memory_reserved() == 5 << 20
    assert cuda.mem_get_info() == (7 << 20, 16 << 20)


def test_importing_and_asking_load_no_cupy() -> None:
    code = ("import sys, distgrad; distgrad.cuda.is_available(); distgrad.device('cuda:1'); distgrad.zeros(2); "
            "assert not {'cupy', 'distgrad.backend.gpu.device', 'distgrad.backend.strict'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not emulator.available(), reason="needs g++, which compiles the kernels for the processor")
def test_the_backend_over_a_stand_in() -> None:
    """Kernels, layers and training on `cuda`, with the kernels' own code run on the processor."""
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "--device", "standin", "tests/gpu"], cwd=ROOT,
                   check=True, timeout=280)
