"""The wire: groups of ranks and what they exchange, over MPI, between threads, or alone.

It moves contiguous numpy arrays and short byte strings, and knows nothing of graphs, tensors, models
or buckets. `distributed` is its user; importing it loads no MPI library.
"""

from __future__ import annotations

from .base import Communicator
from .local import LocalCommunicator, run_ranks
from .progress import Progress, Work
from .single import SelfCommunicator
from .topology import host, local_rank, node_ranks, nodes, world_communicator

__all__ = ["Communicator", "LocalCommunicator", "Progress", "SelfCommunicator", "Work", "host", "local_rank",
           "node_ranks", "nodes", "run_ranks", "world_communicator"]
