"""ZeroRedundancyOptimizer: each rank keeps optimizer state for its share of the parameters, and updates that.

Shares cut through tensors on the grid, so they balance exactly. The update is the very rule that the
ordinary optimizer applies to whole parameters, run over stretches of flat memory. On one node the
parameters are one copy that all ranks map: the owner writes its share in place, and there is nothing to
gather. On devices gradients stay replicated, as in torch's class of this name; what is divided is the state and
the work. `param_memory` says where the parameters lie.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..backend import get, of
from ..errors import rank_prefix
from ..flat import Group, Slot, State, operand
from ..graph.base import wrap
from ..graph.modes import enable_grad
from ..graph.places import beside
from ..optim import Optimizer
from .param_memory import ParamMemory
from .share import ShardedArray, Share

__all__ = ["ZeroRedundancyOptimizer"]


class ZeroRedundancyOptimizer:
    """An optimizer whose state is divided among the ranks.

    The parameters must belong to a DataParallel. Their arrays become read-only to user code: a write on
    every rank would race with the others'. Write inside `with opt.writable():`. Raw arrays that were taken
    from the parameters before are no longer theirs.

    On CUDA devices every rank keeps all parameters and all reduced gradients, and a share of the state. After a step
    the parameters go from device to device where the gradients do (`dp.transport == 'nccl'`), in order with what the
    device computes, so that no host waits; otherwise by way of the host.

    Args:
        params: as for the optimizer.
        optimizer_class: an optimizer with a rule: SGD, Adam, AdamW, Adagrad, RMSprop.
        defaults: its options.

    Attributes:
        param_groups: the optimizer's; options may be changed between steps, the same on every rank.
        steps_taken: how often `step` was called.

    Raises:
        TypeError: the class is no optimizer that a rule describes.
        ValueError: a parameter belongs to no DataParallel, or not all parameters of a flat group were given.
    """

    def __init__(self, params: Any, optimizer_class: type[Optimizer], **defaults: Any) -> None:
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)) or \
                optimizer_class.rule is None:
            raise TypeError(f"ZeroRedundancyOptimizer takes an optimizer class with an elementwise rule, got "
                            f"{getattr(optimizer_class, '__name__', optimizer_class)}")
        self._optimizer = optimizer_class(params, **defaults)
        self.param_groups = self._optimizer.param_groups
        self.steps_taken = 0
        self._options: dict[Any, dict[str, Any]] = {}  # parameter -> its group of options
        flat_groups: dict[Group, None] = {}
        for options in self.param_groups:
            for p in options["params"]:
                if p.placement is None:
                    raise ValueError(f"a parameter of shape {tuple(p.shape)} belongs to no DataParallel: wrap the "
                                     "model first, then make the optimizer")
                self._options[p] = options
                flat_groups[p.placement.group] = None
        for group in flat_groups:
            for placement in group.placements:
                if placement.leaf not in self._options:
                    raise ValueError(f"parameter {placement.slot.name!r} of {group.label} was not given: shares are "
                                     "cut through all parameters; give it a group with lr=0 to leave it alone")
        for group in flat_groups:
            if group.shard is not None:
                group.shard()
        self._shares = [Share(group, ParamMemory(group)) for group in flat_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update this rank's share, and return when all ranks have updated theirs. Collective."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for part in self._shares:
            if part.group.state is State.LOCAL and part.group.ranks > 1:
                raise RuntimeError(f"{rank_prefix()}the gradients of {part.group.label} were not reduced over the "
                                   "ranks yet; step after a backward outside of no_sync()")
        for part in self._shares:
            part.memory.meet()
            with beside((part.memory.flat,)):
                for begin, end, step, options in self._stretches(part):
                    self._update(part, begin, end, step, options)
            part.memory.publish()
            part.group.used_up = part.group.peers is not None
        for p in self._options:
            if p._grad is not None:
                p.bump()
        self._optimizer.mark([part.group for part in self._shares])
        self.steps_taken += 1
        return loss

    def _stretches(self, part: Share) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
        """Ranges of slots with a gradient, the same options and the same count of steps: begin, end, step, options."""
        begin = end = step = 0
        options: dict[str, Any] = {}
        for position, placement in enumerate(part.group.placements):
            if not placement.leaf_grad_is_home():
                if end:
                    yield begin, end, step, options
                end = 0
                continue
            part.steps[position] += 1
            here = self._options[placement.leaf]
            slot = placement.slot
            if end and (part.steps[position] != step or here is not options):
                yield begin, end, step, options
                end = 0
            if not end:
                begin, step, options = slot.offset, part.steps[position], here
            end = slot.offset + slot.size
        if end:
            yield begin, end, step, options

    def _update(self, part: Share, begin: int, end: int, step: int, options: dict[str, Any]) -> None:
        """Apply the rule to what this rank owns of [begin, end)."""
        rule, optimizer = self._optimizer.rule, self._optimizer
        assert rule is not None
        factor = operand(part.group.factor, -1.0 if options.get("maximize") else 1.0)
        names = optimizer.arrays_of(options)
        update = part.updates.get((begin, end, names))
        if update is None or step == 1:
            ps, gs = [], []
            arrays: dict[str, list[Any]] = {name: [] for name in names}
            for there, here in part.cut(begin, end):
                ps.append(_real(part.memory.flat[there]))
                gs.append(_real(part.group.flat[there]))
                for name in names:
                    array = part.array(name)[here]
                    if step == 1:
                        array[...] = optimizer.new_array(name, options, ps[-1])
                    arrays[name].append(_real(array))
            update = part.updates[begin, end, names] = (rule(ps, arrays), gs) if ps else (_nothing, gs)
        update[0](update[1], options, step, factor)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to zero in place."""
        self._optimizer.zero_grad(set_to_none)

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Inside, parameters may be written on every rank; at the end each owner's values are taken. Collective."""
        for part in self._shares:
            part.memory.open()
        try:
            yield
        finally:
            for part in self._shares:
                part.memory.take_and_close()

    def state_dict(self) -> dict[str, Any]:
        """The state of all ranks in the ordinary optimizer's format, on every rank. Collective."""
        gathered: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for part in self._shares:
            stepped = [p.leaf for p, count in zip(part.group.placements, part.steps, strict=True) if count]
            names = sorted({name for leaf in stepped for name in self._optimizer.arrays_of(self._options[leaf])})
            flats = {name: part.memory.gather(part.array(name)) for name in names}  # a small share may be empty
            for position, placement in enumerate(part.group.placements):
                if not part.steps[position]:
                    continue
                state = gathered[placement.leaf]
                if self._optimizer.counted:
                    state["step"] = self._count(part.steps[position])
                for name in self._optimizer.arrays_of(self._options[placement.leaf]):
                    with beside((flats[name],)):
                        state[name] = wrap(placement.slot.view(flats[name]).copy())
        return self._packed(gathered)

    def shard_dict(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state as `state_dict()` gives it, but with each array in pieces, and this rank's pieces by their key.

        Nothing is exchanged or copied. `load_state_dict` takes the first when the ShardedArrays have been put
        together again, for any number of ranks.
        """
        shards: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        mine: dict[str, Any] = {}
        for number, part in enumerate(self._shares):
            for placement, steps, pieces in zip(part.group.placements, part.steps, part.pieces(), strict=True):
                if not steps:
                    continue
                state, slot = shards[placement.leaf], placement.slot
                if self._optimizer.counted:
                    state["step"] = self._count(steps)
                for name in self._optimizer.arrays_of(self._options[placement.leaf]):
                    key = f"{number}.{name}"
                    mine[key] = part.array(name)
                    state[name] = ShardedArray(key, tuple(slot.shape), mine[key].dtype, tuple(slot.order), pieces)
        return self._packed(shards), mine

    @staticmethod
    def _count(steps: int) -> Any:
        return wrap(get("cpu").xp.asarray(float(steps), dtype="float32"))

    def _packed(self, state: defaultdict[Any, dict[str, Any]]) -> dict[str, Any]:
        """The ordinary optimizer's `state_dict()`, had it this state."""
        before, self._optimizer.state = self._optimizer.state, state
        try:
            return self._optimizer.state_dict()
        finally:
            self._optimizer.state = before

    def check_state_dict(self, state_dict: Mapping[str, Any]) -> dict[int, Any]:
        """As the ordinary optimizer's: whether a state fits."""
        return self._optimizer.check_state_dict(state_dict)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state from `state_dict()`, of this or of an ordinary optimizer, from any number of ranks.

        Values need `shape` and `array` only; each array is asked for once, when this rank's share is taken from it.

        Raises:
            ValueError: groups, sizes or shapes differ; nothing was changed.
        """
        by_number = self.check_state_dict(state_dict)
        loaded = {by_number[number]: values for number, values in state_dict["state"].items() if number in by_number}
        self._optimizer.load_state_dict({**state_dict, "state": {}})
        for part in self._shares:
            part.steps = [0] * len(part.steps)
            part.arrays.clear()
            part.updates.clear()
            for position, placement in enumerate(part.group.placements):
                state = loaded.get(placement.leaf)
                if state is None:
                    continue
                part.steps[position] = int(state["step"].array) if "step" in state else 1
                with beside((part.memory.flat,)):
                    for name in self._optimizer.arrays_of(self._options[placement.leaf]):
                        self._fill(part, placement.slot, name, state[name].array)

    @staticmethod
    def _fill(part: Share, slot: Slot, name: str, whole: Any) -> None:
        """Copy one parameter's array, which may lie on the host, into this share's part of it."""
        line = whole.transpose(slot.order).reshape(-1)
        for there, here in part.cut(slot.offset, slot.offset + slot.size):
            memory, found = part.array(name), line[there.start - slot.offset:there.stop - slot.offset]
            place, source = of(memory), of(whole)
            if place is not source:
                found = place.from_host(source.to_host(found), place.device_of(memory))
            memory[here] = found

    def __repr__(self) -> str:
        return f"ZeroRedundancyOptimizer({self._optimizer!r})"


def _nothing(gs: Sequence[Any], options: Mapping[str, Any], step: int, factor: Any) -> None:
    """The update of a rank that owns nothing of a stretch."""


def _real(array: Any) -> Any:
    """Complex numbers as two real ones each."""
    return array.view(array.real.dtype) if array.dtype.kind == "c" else array
