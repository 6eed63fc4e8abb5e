"""Data parallelism: the world of ranks, and models whose gradients are averaged over it.

Layer 7, the only one that sees both graph and wire.
"""

from .hooks import mean_hook
from .parallel import DataParallel
from .sharded import ZeroRedundancyOptimizer
from .world import get_rank, get_world_size, simulate, world

__all__ = ["DataParallel", "ZeroRedundancyOptimizer", "get_rank", "get_world_size", "mean_hook", "simulate", "world"]
