"""cupy's functions, with what numpy has beside them; on the device of their arrays where there are several."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import cupy
import cupyx

from .beside import Beside

__all__ = ["Namespace"]


class Namespace:
    """A module's functions.

    Args:
        module: whose.
        several: whether there are several devices.
    """

    def __init__(self, module: Any, several: bool) -> None:
        self._module = module
        self._several = several

    def __getattr__(self, name: str) -> Any:
        if name == "linalg":
            found: Any = _Linalg(cupy.linalg, self._several)
        else:
            found = self._found(getattr(self._module, name))
        setattr(self, name, found)
        return found

    def _found(self, value: Any) -> Any:
        if not self._several or isinstance(value, type) or not (callable(value) or isinstance(value, ModuleType)):
            return value
        return Namespace(value, True) if isinstance(value, ModuleType) else Beside(value)

    @staticmethod
    def errstate(**kwargs: Any) -> AbstractContextManager[None]:
        """A device warns of no overflow."""
        return nullcontext()


class _Linalg(Namespace):
    """cupy.linalg, whose routines raise LinAlgError as numpy's do."""

    def _found(self, value: Any) -> Any:
        if isinstance(value, type) or not callable(value):
            return value

        def checked(*args: Any, **kwargs: Any) -> Any:
            with cupyx.errstate(linalg="raise"):
                return value(*args, **kwargs)

        return Beside(checked) if self._several else checked
