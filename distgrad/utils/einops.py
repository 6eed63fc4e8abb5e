"""einops on tensors: `einops.rearrange(t, "b c h w -> b (c h w)")` works and is recorded.

einops asks the subclasses of its AbstractBackend which of them knows a tensor, so ours must be there once
einops is. It is made when einops is imported, be that before distgrad or after; distgrad itself never
imports einops.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

from .._tensor.core import Tensor
from .._tensor.creation import arange, as_tensor
from ..ops import linalg, reduce, shape

__all__ = ["register", "watch"]

_MODULE = "einops._backends"
_made: list[type] = []


def watch() -> None:
    """Register with einops now if it is there, else as soon as somebody imports it."""
    module = sys.modules.get(_MODULE)
    if module is not None:
        register(module)
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


class _Watcher:
    """An import finder that finds nothing itself; it sees einops pass by, once."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                register(module)

            spec.loader.exec_module = exec_module
        return spec


def register(backends: ModuleType) -> None:
    """Make einops' backend for tensors, by being a subclass of `backends.AbstractBackend`."""
    base = getattr(backends, "AbstractBackend", None)
    if base is not None and not any(issubclass(made, base) for made in _made):
        _made.append(type("DistgradBackend", (_Operations, base), {}))


class _Operations:
    """What einops asks of a library, in einops' words."""

    framework_name = "distgrad"

    def is_appropriate_type(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor)

    def from_numpy(self, x: Any) -> Tensor:
        return as_tensor(x)

    def to_numpy(self, x: Tensor) -> Any:
        return x.detach().cpu().numpy()

    def arange(self, start: int, stop: int) -> Tensor:
        return arange(start, stop)

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return x.shape

    def reshape(self, x: Tensor, size: Any) -> Tensor:
        return shape.reshape(x, size)

    def transpose(self, x: Tensor, axes: Any) -> Tensor:
        return shape.permute(x, tuple(axes))

    def reduce(self, x: Tensor, operation: str, axes: Any) -> Tensor:
        axes = tuple(axes)
        if operation in ("sum", "mean"):
            return getattr(reduce, operation)(x, axes)
        if operation in ("min", "max"):
            return getattr(reduce, f"a{operation}")(x, axes)
        if operation not in ("prod", "any", "all"):
            raise NotImplementedError(f"einops reduction {operation!r} on tensors")
        for axis in sorted(axes, reverse=True):
            x = getattr(reduce, operation)(x, axis)
        return x

    def stack_on_zeroth_dimension(self, tensors: list[Tensor]) -> Tensor:
        return shape.stack(tensors)

    def add_axis(self, x: Tensor, new_position: int) -> Tensor:
        return shape.unsqueeze(x, new_position)

    def add_axes(self, x: Tensor, n_axes: int, pos2len: dict[int, int]) -> Tensor:
        sizes = [-1] * n_axes
        for position, length in pos2len.items():
            x = shape.unsqueeze(x, position)
            sizes[position] = length
        return shape.expand(x, sizes)

    def tile(self, x: Tensor, repeats: Any) -> Tensor:
        return shape.tile(x, tuple(repeats))

    def concat(self, tensors: list[Tensor], axis: int) -> Tensor:
        return shape.cat(tensors, axis)

    def is_float_type(self, x: Tensor) -> bool:
        return x.dtype.kind in "fc"

    def einsum(self, pattern: str, *x: Tensor) -> Tensor:
        return linalg.einsum(pattern, *x)
