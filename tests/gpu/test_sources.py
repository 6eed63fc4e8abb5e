"""Every kernel's CUDA C++ is compiled for real GPUs: by NVRTC, as cupy does, or by nvcc where that alone is there."""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif("config.getoption('--device') not in ('cuda', 'standin')",
                                reason="loads the kernels: --device cuda, or standin")
ARCHITECTURES = ("compute_80", "compute_90")


def nvrtc() -> Any:
    """NVRTC as NVIDIA's wheels or the system have it; None where it is not."""
    found = find_spec("nvidia.cuda_nvrtc") if find_spec("nvidia") is not None else None
    beside = [str(path) for place in (found.submodule_search_locations or () if found else ())
              for path in Path(place).glob("lib/libnvrtc.so.*")]
    for name in [*beside, ctypes.util.find_library("nvrtc")]:
        if name and ".alt" not in name:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
    return None


def by_nvrtc(library: Any, code: str, architecture: str) -> str:
    """What it complains of; "" if nothing."""
    program = ctypes.c_void_p()
    assert not library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None)
    options = (ctypes.c_char_p * 2)(b"--std=c++17", f"--gpu-architecture={architecture}".encode())
    failed = library.nvrtcCompileProgram(program, 2, options)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode() if failed else ""


def by_nvcc(code: str, architecture: str, folder: Path) -> str:
    (folder / "kernels.cu").write_text(code)
    done = subprocess.run(["nvcc", "-std=c++17", f"-arch={architecture}", "-ptx", "-o", folder / "kernels.ptx",
                           folder / "kernels.cu"], capture_output=True, text=True, timeout=200)
    return done.stderr if done.returncode else ""


def families() -> dict[str, str]:
    """The code of all families, by name and element type."""
    import importlib

    from distgrad import backend

    backend.get("cuda")
    kernels = importlib.import_module("distgrad.backend.gpu.kernels")
    launch = importlib.import_module("distgrad.backend.gpu.kernels.launch")
    for name in kernels._MODULES:
        importlib.import_module(f"distgrad.backend.gpu.kernels.{name}")
    return {f"{name}, {kind}": launch.code_of(name, kind) for name in launch.families() for kind in ("float", "double")}


@pytest.mark.slow
@pytest.mark.timeout(250)
def test_all_kernels_compile(tmp_path: Path) -> None:
    library = nvrtc()
    if library is None and shutil.which("nvcc") is None:
        pytest.skip("neither NVRTC (which comes with cupy's extra) nor nvcc is here")
    codes = families()
    assert len(codes) >= 20 and all("__global__" in code for code in codes.values())
    if library is not None:
        wrong = {(name, one): log for name, code in codes.items() for one in ARCHITECTURES
                 if (log := by_nvrtc(library, code, one))}
    else:
        wrong = {(name, one): log for name, code in codes.items() for one in ARCHITECTURES[-1:]
                 if (log := by_nvcc(code, one, tmp_path))}
    assert not wrong, "\n".join(f"{name}: {log}" for name, log in wrong.items())


def test_a_kernel_that_is_wrong_is_found(tmp_path: Path) -> None:
    code = 'extern "C" __global__ void wrong(float* x) { x = nothing; }'
    library = nvrtc()
    if library is not None:
        assert "nothing" in by_nvrtc(library, code, ARCHITECTURES[0])
    elif shutil.which("nvcc") is not None:
        assert "nothing" in by_nvcc(code, ARCHITECTURES[-1], tmp_path)
    else:
        pytest.skip("neither NVRTC (which comes with cupy's extra) nor nvcc is here")
