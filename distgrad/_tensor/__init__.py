"""The Tensor class and the functions that make tensors. Layer 4, over ops and the graph."""

from .core import Tensor

__all__ = ["Tensor"]
