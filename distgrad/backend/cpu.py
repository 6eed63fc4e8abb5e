"""The host as a device: numpy arrays. The only backend that every installation has."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from . import blas, fused, malloc
from .base import Backend, Device, register

__all__ = ["CPU", "cpu"]


class CPU(Backend):
    """numpy's namespace over host memory; both copies are the array itself."""

    name = "cpu"
    xp = np
    array_type = np.ndarray
    scalar_types = (np.generic,)

    def __init__(self) -> None:
        super().__init__()
        self.device = Device("cpu")

    @property
    def special(self) -> ModuleType:
        import scipy.special  # imported when first needed: it would double the time of `import distgrad`

        return scipy.special

    def override(self, name: str) -> Callable[..., Any] | None:
        return blas.find(name) or fused.find(name)

    def from_host(self, array: Any, device: Device | None = None, non_blocking: bool = False) -> np.ndarray:
        return np.asarray(array)

    def to_host(self, array: np.ndarray, out: np.ndarray | None = None, non_blocking: bool = False) -> np.ndarray:
        if out is None:
            return array
        out[...] = array
        return out

    def fill_from_host(self, array: np.ndarray, host: np.ndarray, non_blocking: bool = False) -> None:
        array[...] = host

    def address(self, array: np.ndarray) -> int:
        return int(array.__array_interface__["data"][0])


malloc.keep()  # before the first array
cpu = register(CPU())
