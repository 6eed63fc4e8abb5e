"""Comm hooks: how one bucket becomes its mean over the ranks. Torch's names, for `DataParallel(model, hook=...)`.

A hook is `hook(bucket, comm) -> Work`. It queues work on the wire with `bucket.submit` and writes the mean
of `bucket.send` over the ranks of `comm` to `bucket.recv`, with the same bits on every rank; in weighted
backwards too. Where it is called, and what becomes of one that raises, is the affair of the exchanges.
"""

from .base import acts_between_nodes, between_nodes
from .compress import bf16_compress_hook, bf16_compress_wrapper, fp16_compress_hook, fp16_compress_wrapper
from .mean import mean_hook
from .powersgd import PowerSGDState, powerSGD_hook

__all__ = ["PowerSGDState", "acts_between_nodes", "between_nodes", "bf16_compress_hook", "bf16_compress_wrapper",
           "fp16_compress_hook", "fp16_compress_wrapper", "mean_hook", "powerSGD_hook"]
