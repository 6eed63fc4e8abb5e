"""torch.utils.dlpack's names."""

from .._tensor.dlpack import from_dlpack, to_dlpack

__all__ = ["from_dlpack", "to_dlpack"]
