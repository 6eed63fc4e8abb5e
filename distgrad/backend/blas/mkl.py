"""Intel's Math Kernel Library: where it is, how it is set up, and its products of matrices by pointers.

It is loaded from this environment's own libmkl_rt by ctypes, which lets go of the interpreter's lock during a
call. It knows addresses and sizes; `mkl_products` knows arrays.
"""

from __future__ import annotations

import ctypes
import os
import re
import site
import sys
from collections.abc import Callable
from functools import cache

__all__ = ["Library", "folders", "load", "path", "suits"]

_LP64 = 0        # mkl_set_interface_layer: sizes are 32-bit integers
_SEQUENTIAL = 1  # mkl_set_threading_layer
_CBWR_AUTO = 2   # mkl_cbwr_set: this processor's fastest code, sums in a fixed order


def folders() -> list[str]:
    """Where an installer of this environment puts shared libraries."""
    import sysconfig  # slow to import, and seldom needed

    prefixes = [sys.prefix, sysconfig.get_path("data"), site.USER_BASE if site.ENABLE_USER_SITE else None]
    return list(dict.fromkeys(os.path.join(prefix, "lib") for prefix in prefixes if prefix))


@cache
def path() -> str | None:
    """The newest libmkl_rt of this environment, or None."""
    found = [os.path.join(folder, file) for folder in folders() if os.path.isdir(folder)
             for file in os.listdir(folder) if file.startswith("libmkl_rt.so")]
    return max(found, key=_version, default=None)


def _version(file: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", os.path.basename(file))]


def suits() -> bool:
    """Whether it is likely to be faster here: on an Intel processor, in a process whose BLAS runs on one thread.

    On other processors numpy's OpenBLAS was as fast or faster, and it has threads ([Note: no threads in MKL]).
    Where another package uses MKL already, numpy most of all, nothing is to be gained.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            if "GenuineIntel" not in file.read(256):  # its second line; the whole file is long on large nodes
                return False
    except OSError:
        return False
    from threadpoolctl import threadpool_info  # looks at every loaded library

    return all(pool["num_threads"] == 1 and pool["internal_api"] != "mkl"
               for pool in threadpool_info() if pool["user_api"] == "blas")


class Library:
    """MKL in this process, on the calling thread alone.

    [Note: no threads in MKL] Its threads are OpenMP's by the Intel compiler's runtime. In a process that also holds
    GCC's, as torch brings it, the two take each other's calls, and products are wrong without a word.

    Attributes:
        gemm: by dtype name, the C function of a product, for which every argument is an address.
        batched: the same for many products at fixed distances.
    """

    def __init__(self, file: str) -> None:
        self._library = library = ctypes.CDLL(file)
        # All of these count only before the first call of anything else, and take precedence over MKL_* variables.
        library.MKL_Set_Interface_Layer(_LP64)
        if library.MKL_Set_Threading_Layer(_SEQUENTIAL) != _SEQUENTIAL:
            raise RuntimeError(f"{file} is already used with threads by another package of this process; set "
                               "MKL_THREADING_LAYER=SEQUENTIAL for that one, or DISTGRAD_BLAS=numpy")
        # Without this the order of sums may depend on where in memory an array begins, which differs from run to run.
        library.MKL_CBWR_Set(_CBWR_AUTO)
        self.gemm = {"float32": self._function("sgemm_", 13), "float64": self._function("dgemm_", 13)}
        self.batched = {"float32": self._function("sgemm_batch_strided_", 17),
                        "float64": self._function("dgemm_batch_strided_", 17)}

    def _function(self, name: str, count: int) -> Callable[..., None]:
        prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count)
        return prototype((name, self._library))

    def describe(self) -> str:
        """Its name and version."""
        text = ctypes.create_string_buffer(256)
        self._library.MKL_Get_Version_String(text, len(text))
        number = re.search(rb"\d+\.\d+(\.\d+)?", text.value)
        return f"MKL {number.group().decode() if number else 'of an unknown version'}"


@cache
def load() -> Library:
    """The library, set up. RuntimeError where there is none."""
    file = path()
    if file is None:
        raise RuntimeError(f"there is no libmkl_rt in {' or '.join(folders())}")
    return Library(file)
