"""Comm hooks: how one bucket becomes its mean over the ranks.

A hook is `hook(bucket, comm) -> Work`. It queues work on the wire with `bucket.submit` and writes
the mean of `bucket.send` to `bucket.recv`, with the same bits on every rank.
"""

from __future__ import annotations

from ..comm import Communicator, Work
from .bucket import Bucket

__all__ = ["mean_hook"]


def mean_hook(bucket: Bucket, comm: Communicator) -> Work:
    """The sum in rank order, divided once by the number of ranks."""
    return bucket.submit(comm.allreduce, bucket.send, bucket.recv)
