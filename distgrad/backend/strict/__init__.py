"""The strict device: host memory that nothing takes for a numpy array. It stands in for a GPU where there is none.

Its arrays are no ndarrays and cannot become one by accident: numpy, scipy, compiled kernels and MPI refuse
them. What goes to the host and back goes through `from_host`, `to_host` and `item`, and is counted in
`transfers`. Mathematics are numpy's, so results equal those of the reference kernels on the CPU.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ..base import Backend, Device, register
from .array import StrictArray, Transfers, transfers
from .namespace import Namespace

__all__ = ["Strict", "StrictArray", "Transfers", "transfers"]

_SPECIAL = ("digamma", "erf", "erfc", "erfinv", "expit", "gammaln", "polygamma", "psi", "xlogy")


class Strict(Backend):
    """Arrays that are closed to the host, and the reference kernels over them."""

    name = "strict"
    array_type = StrictArray

    def __init__(self) -> None:
        super().__init__()
        self.device = Device("strict")
        self.xp: Any = Namespace(np)
        self._special: Any = None

    @property
    def special(self) -> ModuleType:
        if self._special is None:
            import scipy.special

            self._special = Namespace(scipy.special, _SPECIAL)
        return self._special

    def from_host(self, array: Any, device: Device | None = None, non_blocking: bool = False) -> StrictArray:
        host = np.array(array, order="K")
        transfers.note("from_host", host.nbytes)
        return StrictArray(host)

    def fill_from_host(self, array: StrictArray, host: np.ndarray, non_blocking: bool = False) -> None:
        transfers.note("from_host", host.nbytes)
        array.write(host)

    def address(self, array: StrictArray) -> int:
        return array.address

    def to_host(self, array: StrictArray, out: Any = None, non_blocking: bool = False) -> np.ndarray:
        transfers.note("to_host", array.nbytes)
        return array.read(out)


register(Strict())
