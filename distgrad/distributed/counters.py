"""What each of a rank's counters in shared memory counts: columns of `comm.shared.NodeMemory`."""

from __future__ import annotations

__all__ = ["ARRIVED", "DONE", "FENCED", "FILLED", "LEFT", "SAID", "SUMMED"]

FILLED = 0   # buckets that this rank has filled
SUMMED = 1   # buckets of which it has summed its part over the node
DONE = 2     # buckets of which its part of the means is everywhere
SAID = 3     # control messages that it has left
ARRIVED = 4  # backwards after which its part of the gradients was final
LEFT = 5     # backwards for which it has begun to write gradients
FENCED = 6   # changes of sharded gradients that it has come to, and ended
