"""Convolution by cuDNN."""
from typing import Any
__all__ = ["convolve"]
def convolve(kind: str, x: Any, w: Any, y: Any, stride: Any, pads: Any, dilation: Any) -> bool:
    return False
