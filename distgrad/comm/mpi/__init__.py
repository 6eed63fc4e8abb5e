"""Ranks as MPI processes. Importing this package does not load MPI; `wrap` and `library` do.

It hands out `Communicator` objects and keeps mpi4py to itself.
"""

from __future__ import annotations

from .communicator import MPICommunicator, wrap
from .library import is_loaded, library, takes_cuda

__all__ = ["MPICommunicator", "is_loaded", "library", "takes_cuda", "wrap"]
