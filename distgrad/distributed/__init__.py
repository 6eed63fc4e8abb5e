"""Data parallelism: the world of ranks, and models whose gradients are averaged over it.

Layer 7, the only one that sees both graph and wire.
"""

from .hooks import (
    PowerSGDState,
    between_nodes,
    bf16_compress_hook,
    bf16_compress_wrapper,
    fp16_compress_hook,
    fp16_compress_wrapper,
    mean_hook,
    powerSGD_hook,
)
from .join import Join
from .parallel import DataParallel
from .sharded import ZeroRedundancyOptimizer
from .share import ShardedArray
from .stopping import STOP_SIGNALS, stop_on_signals
from .world import get_rank, get_world_size, simulate, world

__all__ = ["STOP_SIGNALS", "DataParallel", "Join", "PowerSGDState", "ShardedArray", "ZeroRedundancyOptimizer",
           "between_nodes", "bf16_compress_hook", "bf16_compress_wrapper", "fp16_compress_hook",
           "fp16_compress_wrapper", "get_rank", "get_world_size", "mean_hook", "powerSGD_hook", "simulate",
           "stop_on_signals", "world"]
