"""torch's side of a training step: the twin of a model, with its numbers, and what torch's users wrap around it.

torch is imported when a peer is asked for, never by importing this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..comm import Communicator
from .ranks import torch_ranks
from .workloads import Library, Workload

__all__ = ["adam", "compiled", "library", "replicated", "torch_peer", "twin"]


@contextmanager
def torch_peer(comm: Communicator) -> Iterator[Any]:
    """torch on one thread, with a process group if there are several ranks. Collective."""
    if comm.size > 1:
        with torch_ranks(comm) as torch:
            yield torch
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield torch
    finally:
        torch.set_num_threads(threads)


def library(torch: Any) -> Library:
    """torch's names for models."""
    return Library(torch.nn, torch.nn.functional, torch.arange, torch.from_numpy)


def twin(torch: Any, workload: Workload, state: Mapping[str, np.ndarray]) -> Any:
    """The workload's model in torch, with copies of these numbers.

    Raises:
        RuntimeError: names or shapes of the state differ from the twin's.
    """
    module = workload.build(library(torch))
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return module


def compiled(torch: Any, module: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """The module compiled by torch, forward and backward, which this batch goes through once.

    Raises whatever torch's compiler does where it cannot.
    """
    import torch._inductor.config

    torch._dynamo.reset()  # else it counts the models that were compiled before, and gives up after some
    torch._inductor.config.compile_threads = 1  # no processes of its own beside what is measured
    found = torch.compile(module)
    torch.nn.functional.cross_entropy(found(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    found.zero_grad()
    return found


def replicated(torch: Any, module: Any) -> Any:
    """The module in torch's data parallelism, with the options that suit a model which is always used whole."""
    return torch.nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True, static_graph=True)


def adam(torch: Any, parameters: Any, rate: float) -> Any:
    """torch's fastest Adam."""
    return torch.optim.Adam(parameters, lr=rate, fused=True)
