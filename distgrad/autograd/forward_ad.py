"""torch.autograd.forward_ad's names: dual tensors, which carry a tangent through operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .._tensor.core import Tensor
from ..graph.dual import current_level, enter_level, exit_level, set_tangent, tangent_of
from ..graph.function import alias
from ..graph.modes import DUAL, state

__all__ = ["UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual", "unpack_dual"]

enter_dual_level = enter_level
exit_dual_level = exit_level


class UnpackedDualTensor(NamedTuple):
    """What `unpack_dual` returns; `tangent` is None for a tensor that carries none."""

    primal: Tensor
    tangent: Tensor | None


@contextmanager
def dual_level() -> Iterator[int]:
    """Inside, tensors may carry tangents; they are forgotten at the end. Levels do not nest."""
    level = enter_level()
    try:
        yield level
    finally:
        exit_level(level)


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """`tensor` carrying `tangent`, of the same shape and dtype.

    Raises:
        RuntimeError: no level is open, or shape or dtype do not match.
        ValueError: the tensor is not floating or complex.
    """
    current_level(level)
    if tensor.dtype.kind not in "fc":
        raise ValueError(f"make_dual: only floating and complex tensors have tangents, this one is {tensor.dtype}")
    if tangent.shape != tensor.shape or tangent.dtype != tensor.dtype:
        raise RuntimeError(f"make_dual: the tensor has shape {tensor.shape} and dtype {tensor.dtype}, the tangent "
                           f"{tangent.shape} and {tangent.dtype}")
    dual = _bare(tensor)
    set_tangent(dual, tangent)
    return dual


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """(primal, tangent) of a tensor; outside of any level the tangent is None."""
    if level is not None:
        current_level(level)
    return UnpackedDualTensor(_bare(tensor), tangent_of(tensor))


def _bare(tensor: Tensor) -> Tensor:
    """The same values and history, without a tangent."""
    flags, state.flags = state.flags, state.flags & ~DUAL
    try:
        found: Tensor = alias(tensor)
        return found
    finally:
        state.flags = flags
