"""The door to cupy: loads it, and says what is missing where no CUDA device can be used.

Everything else in this package is imported only after `load` has returned.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from ...config import config, preset

__all__ = ["count", "load", "readable"]

_OLDEST = 12  # the first major version of CUDA for which there is an extra
_INSTALL = ('pip install "distgrad[cuda12]" for a driver of CUDA 12, "distgrad[cuda13]" for one of CUDA 13 '
            "(nvidia-smi says which)")


def load() -> Any:
    """The cupy module, with at least one device that it can use.

    Raises:
        RuntimeError: cupy is not installed or cannot be loaded, there is no driver, the driver is older than the
            CUDA that cupy was built for, no device is visible, or CUDA's libraries are not there. The message says
            which, and what to do.
    """
    if find_spec("cupy") is None:
        raise RuntimeError(f"device 'cuda' needs cupy, which is not installed: {_INSTALL}")
    if config.tf32:
        preset("CUPY_TF32", "1")  # read when cupy is imported
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise RuntimeError(f"device 'cuda' needs cupy, which is installed but cannot be loaded ({error}): {_INSTALL}, "
                           "one of them alone") from error
    count(cupy)
    _find_libraries(cupy)
    return cupy


def _find_libraries(cupy: Any) -> None:
    """Look for CUDA's compiler and its products of matrices: cupy can be imported without them, and compute nothing."""
    try:
        cupy.cuda.nvrtc.getVersion()
        from cupy_backends.cuda.libs import cublas  # noqa: F401 - loads the library
    except Exception as error:  # ImportError, or what cupy's own search for libraries raises
        major = cupy.cuda.runtime.runtimeGetVersion() // 1000
        what = str(error).partition("\n")[0]
        raise RuntimeError(f'cupy does not find the libraries of CUDA ({what}): pip install "distgrad[cuda{major}]" '
                           "brings them, or install CUDA's toolkit (on a cluster, load its module)") from error


def count(cupy: Any) -> int:
    """How many devices cupy can use, at least one.

    Raises:
        RuntimeError: none; see `load`.
    """
    runtime = cupy.cuda.runtime
    built = runtime.runtimeGetVersion()
    try:
        driver = runtime.driverGetVersion()
    except runtime.CUDARuntimeError:
        driver = 0
    if not driver:
        raise RuntimeError("device 'cuda' needs NVIDIA's driver, which is not here: install it (or start the container "
                           "with its GPUs, as docker's --gpus all does), or use device='cpu'")
    if driver // 1000 < built // 1000:
        other = (f'pip uninstall cupy-cuda{built // 1000}x, then pip install "distgrad[cuda{driver // 1000}]", or '
                 if driver // 1000 >= _OLDEST else "")
        raise RuntimeError(f"the driver supports CUDA {readable(driver)}, but cupy was built for CUDA "
                           f"{readable(built)}: {other}install a newer driver")
    try:
        found: int = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise RuntimeError(f"no CUDA device can be used: {error}. {_HIDDEN}") from error
    if not found:
        raise RuntimeError(f"the driver is here, but no CUDA device is visible. {_HIDDEN}")
    return found


_HIDDEN = ("nvidia-smi lists the devices of this machine; CUDA_VISIBLE_DEVICES, a batch job without a request for GPUs "
           "or a container without them hides them")


def readable(number: int) -> str:
    """A version of CUDA as people write it: 12090 is 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"
