"""Variable: the old name of a tensor in autograd, as portable scripts still use it.

`Variable._execution_engine.queue_callback` is how hooks ask to be called at the end of a backward.
"""

from __future__ import annotations

from typing import Any

from .._tensor.core import Tensor
from ..graph.engine import queue_callback

__all__ = ["Variable"]


class _Engine:
    """What scripts use of torch's engine object."""

    queue_callback = staticmethod(queue_callback)


class _AnyTensor(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor)


class Variable(metaclass=_AnyTensor):
    """Variable(t) is a tensor over the memory of t; every tensor is an instance."""

    _execution_engine = _Engine()

    def __new__(cls, data: Tensor, requires_grad: bool = False) -> Any:
        return data.detach().requires_grad_(requires_grad)
