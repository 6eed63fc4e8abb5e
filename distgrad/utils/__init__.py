"""torch.utils' names: checkpointing (recompute for memory), DLPack; and the backend for einops. Layer 5."""

from . import checkpoint, dlpack

__all__ = ["checkpoint", "dlpack"]
