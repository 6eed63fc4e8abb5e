"""Clipping gradients by their common norm or by value: torch's functions, with and without ranks.

Each parameter's placement says whether its gradient lies in flat memory. There the norm's partial sums
are taken over the fixed grid and gathered from all ranks; they are added in one fixed order in float64,
so that every rank gets the same bits. Gradients outside of flat memory are summed block by block alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

from ...backend import device_of, move, of
from ...errors import rank_prefix
from ...flat import GRID, Group, Placement, State, clip_factor, multiply_
from ...graph.base import TensorBase, from_raw
from ...graph.places import beside

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_grad_norms", "get_total_norm"]


def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
                    foreach: bool | None = None) -> Any:
    """Scale the gradients of `parameters` so that their norm together is at most `max_norm`.

    All are multiplied by min(1, max_norm / (norm + 1e-6)), in place; norm = (sum |g|^p)^(1/p).

    On a device norm and factor are computed there, and nobody waits for it until somebody reads the norm. Gradients
    may lie on several devices: then the norm comes to that of the first, and is read for the others.

    Args:
        parameters: a tensor or an iterable of them; those without a gradient do not count.
        norm_type: p > 0; inf for the largest absolute value, 0 for the number of elements that are not 0.
        error_if_nonfinite: raise instead of going on with a norm of NaN or inf, which means to read it. Without it,
            a norm of NaN makes all gradients NaN, one of inf makes the finite ones 0.
        foreach: accepted and ignored; there is one implementation.

    Returns:
        The norm before clipping, a 0-d tensor on the gradients' device, with the same bits on every rank.

    Raises:
        RuntimeError: the norm is not finite (on request), or gradients were not reduced over the ranks yet.
        ValueError: norm_type is negative.
    """
    groups, others = _by_group(_with_gradients(parameters))
    runs = _runs([q._grad.array for q in others])
    norm = _norm(groups, runs, _power(norm_type))
    _check_finite(norm, error_if_nonfinite)
    _scale(groups, others, runs, max_norm, norm)
    return norm


def get_total_norm(tensors: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False,
                   foreach: bool | None = None) -> Any:
    """The norm of all tensors together, as if they were one vector: (sum |x|^p)^(1/p), a 0-d tensor."""
    p = _power(norm_type)
    norm = _norm({}, _runs([t.array for t in _listed(tensors)]), p)
    _check_finite(norm, error_if_nonfinite)
    return norm


def get_grad_norms(param_groups: Iterable[Any], norm_type: float = 2.0) -> list[Any]:
    """The norm of the gradients of each group, over all ranks: which part of a model has how large gradients.

    Args:
        param_groups: an optimizer's, or any iterables of parameters.
        norm_type: as for `clip_grad_norm_`.

    Returns:
        A 0-d tensor for each group, with the same bits on every rank; 0 where there is no gradient.

    Raises:
        RuntimeError: gradients were not reduced over the ranks yet.
    """
    power = _power(norm_type)
    found = [_by_group(_with_gradients(group["params"] if isinstance(group, dict) else group))
             for group in param_groups]
    return [_norm(groups, _runs([q._grad.array for q in others]), power) for groups, others in found]


def clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Any, foreach: bool | None = None) -> None:
    """Scale gradients by min(1, max_norm / (total_norm + 1e-6)), for a norm that is known already."""
    groups, others = _by_group(_with_gradients(parameters))
    _scale(groups, others, _runs([q._grad.array for q in others]), max_norm, total_norm)


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Bring every element of the gradients into [-clip_value, clip_value], in place."""
    limit = float(clip_value)
    groups, others = _by_group(_with_gradients(parameters))
    for group, members in groups.items():
        group.change(members, lambda parts: [of(part).xp.clip(part, -limit, limit, out=part) for part in parts])
    for q in others:
        array = q._grad.array
        of(array).xp.clip(array, -limit, limit, out=array)
        q._grad.bump()


def _listed(tensors: Any) -> list[Any]:
    return [tensors] if isinstance(tensors, TensorBase) else list(tensors)


def _with_gradients(parameters: Any) -> list[Any]:
    """Each parameter that has a gradient, once."""
    return list(dict.fromkeys(p for p in _listed(parameters) if p._grad is not None))


def _power(norm_type: float) -> float:
    p = float(norm_type)
    if not p >= 0:
        raise ValueError(f"norm_type is not negative, got {norm_type}")
    return p


def _by_group(parameters: Iterable[Any]) -> tuple[dict[Group, list[Placement]], list[Any]]:
    """The placements of those whose gradients lie in flat memory, by group, and the other parameters."""
    groups: dict[Group, list[Placement]] = {}
    others = []
    for p in parameters:
        placement = p.placement
        if placement is not None and p._grad is placement.home:
            groups.setdefault(placement.group, []).append(placement)
        else:
            others.append(p)
    for group, members in groups.items():
        if group.state is State.LOCAL and group.ranks > 1:
            raise RuntimeError(f"{rank_prefix()}clip_grad_norm_: the gradients of {group.label} (such as "
                               f"{members[0].slot.name!r}) were not reduced over the {group.ranks} ranks yet; clip "
                               "after a backward outside of no_sync()")
    return groups, others


def _runs(arrays: list[Any]) -> list[list[Any]]:
    """Neighbours of one device and one dtype together."""
    return [list(run) for _, run in
            itertools.groupby(arrays, lambda a: (a.__class__, a.dtype, getattr(a, "device", None)))]


def _norm(groups: dict[Group, list[Placement]], runs: list[list[Any]], p: float) -> Any:
    """The norm of gradients in flat memory, over all ranks where they share it, and of other arrays."""
    parts = [group.block_partials(members, p) for group, members in groups.items()]
    parts += [of(run[0]).kernels.norms_of(run, p, GRID) for run in runs]
    return _combined(parts, [group.flat for group in groups] + [run[0] for run in runs], p)


def _combined(parts: list[Any], arrays: list[Any], p: float) -> Any:
    """(sum of partial sums)^(1/p) in the widest of the arrays' dtypes, at least float32."""
    if not arrays:
        from ..._tensor.creation import tensor

        return tensor(0.0)
    with beside(arrays):
        return _root(parts, arrays, p)


def _root(parts: list[Any], arrays: list[Any], p: float) -> Any:
    xp = of(arrays[0]).xp
    partials = parts[0] if len(parts) == 1 else xp.concatenate([move(part, device_of(arrays[0])) for part in parts])
    kinds = {a.dtype for a in arrays}
    dtype = xp.result_type("float32", *{xp.empty(0, kind).real.dtype for kind in kinds}) if len(kinds) > 1 \
        or arrays[0].dtype.char != "f" else arrays[0].dtype
    return from_raw(of(partials).kernels.norm_from(partials, p, dtype))


def _check_finite(norm: Any, error_if_nonfinite: bool) -> None:
    if error_if_nonfinite and not math.isfinite(float(norm)):
        raise RuntimeError(f"{rank_prefix()}the norm of the gradients is {float(norm)}, so they cannot be clipped; "
                           "with error_if_nonfinite=False they are scaled by it all the same")


def _scale(groups: dict[Group, list[Placement]], others: list[Any], runs: list[list[Any]], max_norm: float,
           norm: Any) -> None:
    """Multiply gradients by the clip factor, rounded to their dtype first."""
    found = getattr(norm, "array", norm)
    for group, members in groups.items():
        group.scale(clip_factor(max_norm, found, group.flat), members)
        for placement in members:
            placement.home.bump()
    for run in runs:
        multiply_(run, clip_factor(max_norm, found, run[0]))
    for q in others:
        q._grad.bump()
