"""What recording costs: a chain of small operations recorded, under no_grad, and in inference mode.

On a GPU that is what the host needs to launch them: a chain is timed from an idle device until all of its work is done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from .._tensor.creation import ones
from ..comm import SelfCommunicator
from ..graph.modes import inference_mode, no_grad
from .clock import Sample, interleaved
from .place import HERE, Place
from .torch_ranks import torch_if_it_can

__all__ = ["run"]


def run(length: int = 1000, rounds: int = 100, peer: str | None = None, place: Place = HERE) -> list[Sample]:
    """Time a chain of `length` operations on 10 elements in each mode.

    Args:
        peer: 'torch' measures it in the same rounds.
        place: where the tensors lie.

    Returns:
        Samples named 'recording', 'no_grad', 'inference_mode', with the peer's name before its own.
    """
    contestants = _contestants(ones(10, requires_grad=True, device=place.device), length, no_grad, inference_mode, "")
    with ExitStack() as stack:
        torch = torch_if_it_can(stack, SelfCommunicator(), place, peer)
        if torch is not None:
            contestants |= _contestants(torch.ones(10, requires_grad=True, device=place.peers), length, torch.no_grad,
                                        torch.inference_mode, "torch ")
        return interleaved({name: place.finished(call) for name, call in contestants.items()}, rounds)


def _contestants(x: Any, length: int, no_grad: Any, inference_mode: Any, prefix: str) -> dict[str, Callable[[], Any]]:
    def chain() -> Any:
        y = x
        for _ in range(length // 2):
            y = y * 1.0000001
            y = y + 0.0000001
        return y

    def without() -> Any:
        with no_grad():
            return chain()

    def inference() -> Any:
        with inference_mode():
            return chain()

    return {f"{prefix}recording": chain, f"{prefix}no_grad": without, f"{prefix}inference_mode": inference}
