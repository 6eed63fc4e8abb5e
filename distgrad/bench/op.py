"""What one small operation costs: recorded, and with its backward, on tensors of 10 elements.

On a GPU that is what the host needs to launch it: a call is timed from an idle device until all of its work is done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from .._tensor.creation import full
from ..comm import SelfCommunicator
from .clock import Sample, interleaved
from .place import HERE, Place
from .torch_ranks import torch_if_it_can

__all__ = ["OPS", "repeats", "run"]

_REPEATS = 50  # of the operation in one measurement: a chain, or a sum of them, with one backward

# name: one link of a chain, from the tensor so far and a parameter of the same shape
OPS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, w: x + w,
    "mul": lambda x, w: x * w,
    "matmul": lambda x, w: x @ w,
    "sum": lambda x, w: x.sum(0, keepdim=True),
    "tanh": lambda x, w: x.tanh(),
}


def run(rounds: int = 100, peer: str | None = None, place: Place = HERE) -> list[tuple[str, list[Sample]]]:
    """Time each operation of OPS on 10 elements (matmul: 3 x 3), on one rank.

    Args:
        peer: 'torch' measures it in the same rounds.
        place: where the tensors lie.

    Returns:
        For each operation samples of a chain of them, named 'forward' (recorded) and 'forward and backward', with the
        peer's name before its own; divide by `repeats()` for one operation.
    """
    makers: dict[str, Callable[..., Any]] = {"": partial(full, device=place.device)}
    with ExitStack() as stack:
        torch = torch_if_it_can(stack, SelfCommunicator(), place, peer)
        if torch is not None:
            makers["torch "] = partial(torch.full, device=place.peers)
        found = []
        for name, op in OPS.items():
            contestants: dict[str, Callable[[], Any]] = {}
            for prefix, make in makers.items():
                contestants |= _contestants(prefix, op, make, (3, 3) if name == "matmul" else (10,))
            contestants = {name: place.finished(call) for name, call in contestants.items()}
            found.append((name, interleaved(contestants, rounds)))
    return found


def repeats() -> int:
    """How many operations one measured call does."""
    return _REPEATS


def _contestants(prefix: str, op: Callable[[Any, Any], Any], make: Callable[..., Any],
                 shape: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    x = make(shape, 0.5, requires_grad=True)
    w = make(shape, 0.5, requires_grad=True)
    seed = make(op(x, w).shape, 1.0)

    def forward() -> Any:
        y = x
        for _ in range(_REPEATS):
            y = op(y, w)
        return y

    def both() -> None:
        forward().backward(seed)
        x.grad = w.grad = None

    return {f"{prefix}forward": forward, f"{prefix}forward and backward": both}
