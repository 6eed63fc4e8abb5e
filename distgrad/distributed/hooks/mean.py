"""The mean in rank order: what happens without a hook."""

from __future__ import annotations

from ...comm import Communicator, Work
from ..bucket import Bucket

__all__ = ["mean_hook"]


def mean_hook(bucket: Bucket, comm: Communicator) -> Work:
    """The sum in rank order, divided once by the number of ranks."""
    return bucket.submit(comm.allreduce, bucket.send, bucket.recv)
