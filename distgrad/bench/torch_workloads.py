"""torch's side of a training step: the twin of a model, with its numbers, and what torch's users wrap around it.

It is handed torch, and the device that models and batches lie on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .workloads import Library, Workload

__all__ = ["adam", "compiled", "library", "replicated", "twin"]


def library(torch: Any, device: str = "cpu") -> Library:
    """torch's names for models, with tensors on the device."""
    return Library(torch.nn, torch.nn.functional, partial(torch.arange, device=device),
                   lambda array: torch.from_numpy(array).to(device))


def twin(torch: Any, workload: Workload, state: Mapping[str, np.ndarray], device: str = "cpu") -> Any:
    """The workload's model in torch, with copies of these numbers.

    Raises:
        RuntimeError: names or shapes of the state differ from the twin's.
    """
    module = workload.build(library(torch, device))
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return module.to(device)


def compiled(torch: Any, module: Any, x: Any, y: Any) -> Any:
    """The module compiled by torch, forward and backward, which this batch of tensors goes through once.

    Raises whatever torch's compiler does where it cannot.
    """
    import torch._inductor.config

    torch._dynamo.reset()  # else it counts the models that were compiled before, and gives up after some
    torch._inductor.config.compile_threads = 1  # no processes of its own beside what is measured
    found = torch.compile(module)
    torch.nn.functional.cross_entropy(found(x), y).backward()
    found.zero_grad()
    return found


def replicated(torch: Any, module: Any) -> Any:
    """The module in torch's data parallelism, with the options that suit a model which is always used whole."""
    return torch.nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True, static_graph=True)


def adam(torch: Any, parameters: Any, rate: float) -> Any:
    """torch's fastest Adam."""
    return torch.optim.Adam(parameters, lr=rate, fused=True)
