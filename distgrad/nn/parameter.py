"""Parameter and Buffer: tensors that a Module finds and keeps when they are assigned to it.

What they do as tensors is Tensor's; what it means to belong to a module is module.py's.
"""

from __future__ import annotations

from typing import Any

from .._tensor.core import Tensor
from .._tensor.creation import tensor
from ..graph.base import TensorBase, make

__all__ = ["Buffer", "Parameter"]


def _over(cls: type[Tensor], data: Any, requires_grad: bool) -> Any:
    """A leaf of class `cls` over the memory of `data` (copied when it is no tensor), sharing its version."""
    source = data if isinstance(data, TensorBase) else tensor(() if data is None else data)
    t = make(cls, source.array)
    t.version = source.shared_version()
    if requires_grad:
        t.requires_grad = True
    return t


class Parameter(Tensor):
    """A tensor that a Module trains: assigned as an attribute, it is listed by `parameters()`.

    Args:
        data: a tensor, whose memory is shared, or numbers, which are copied.
        requires_grad: whether backward computes its gradient.

    Raises:
        RuntimeError: `requires_grad` with integers or booleans.
    """

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Parameter:
        return _over(cls, data, requires_grad)


class Buffer(Tensor):
    """A tensor that belongs to a Module's state but is not trained, such as running statistics.

    Args:
        data: as for Parameter.
        persistent: whether it is part of `state_dict()`.
    """

    persistent: bool = True

    def __new__(cls, data: Any = None, *, persistent: bool = True) -> Buffer:
        buffer = _over(cls, data, False)
        buffer.persistent = persistent
        return buffer
