"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...graph.base import TensorBase
from ...graph.modes import no_grad
from ...ops.shape import cat, reshape

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Any]) -> Any:
    """All parameters side by side in one dimension, inside the graph.

    Raises:
        TypeError: they lie on different devices.
    """
    found = list(parameters)
    devices = {str(p.device) for p in found}
    if len(devices) > 1:
        raise TypeError(f"the parameters lie on different devices: {', '.join(sorted(devices))}")
    return cat([reshape(p, (-1,)) for p in found])


def vector_to_parameters(vec: Any, parameters: Iterable[Any]) -> None:
    """Copy consecutive parts of a vector into the parameters' memory.

    Raises:
        TypeError: `vec` is no tensor.
        ValueError: the vector's length is not the number of the parameters' elements. Nothing was changed.
    """
    if not isinstance(vec, TensorBase):
        raise TypeError(f"the vector is a tensor, got {type(vec).__name__}")
    found = list(parameters)
    total = sum(p.numel() for p in found)
    if vec.ndim != 1 or vec.numel() != total:
        raise ValueError(f"the parameters have {total} elements, the vector has shape {tuple(vec.shape)}")
    start = 0
    with no_grad():
        for p in found:
            p.copy_(reshape(vec[start:start + p.numel()], p.shape))
            start += p.numel()
