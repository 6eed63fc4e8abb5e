"""Optimizer: parameter groups, state by parameter, and one step for all; torch's interface and state format.

A subclass names its rule, and the arrays that the rule keeps for each parameter. Where gradients lie and
whether ranks share them is not known here: a step reads `p.grad` and writes `p` in place.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any, ClassVar

from .._tensor.gradients import clear_grad
from ..backend import get, of
from ..flat import Factor, Group, operand
from ..graph.base import TensorBase, wrap
from ..graph.hooks import RemovableHandle, Table
from ..graph.modes import enable_grad
from ..graph.places import each_place
from .rules import Rule
from .runs import Run

__all__ = ["Optimizer", "check_range"]


def check_range(name: str, value: Any, low: float = 0.0, high: float = float("inf")) -> None:
    """Raise ValueError unless low <= value < high."""
    if not low <= float(value) < high:
        raise ValueError(f"{name} lies in [{low:g}, {high:g}), got {value}")


class Optimizer:
    """Base of optimizers.

    Args:
        params: an iterable of parameters, of pairs (name, parameter), or of dictionaries with 'params' and
            options of their own: the parameter groups.
        defaults: the options of groups that do not say otherwise.

    Attributes:
        param_groups: one dictionary each, of 'params' and all options; may be changed between steps.
        state: what is kept for each parameter, by name.

    Every optimizer also takes torch's `foreach` and `fused`, which choose between implementations there, and
    ignores them.

    Raises:
        TypeError: `params` is a tensor, a set, or holds something else than tensors.
        ValueError: no parameters; one twice; one that was computed from others.
    """

    rule: Rule | None = None  # None: the subclass has a step() of its own
    counted: ClassVar[bool] = True  # the state has a 'step'

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self.steps_taken = 0
        self._runs: dict[tuple[int, int], Run] = {}
        self._marked: list[Any] = []  # the options of which `_mark` is the fingerprint
        self._mark = 0
        self._pre_hooks = Table()
        self._post_hooks = Table()
        if isinstance(params, TensorBase):
            raise TypeError(f"params is an iterable of parameters, got one {type(params).__name__}: write [parameter]")
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError("the optimizer got no parameters")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    # -- groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options where they differ from the defaults."""
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group is a dict, got {type(param_group).__name__}")
        group = dict(param_group)
        params = group["params"]
        if isinstance(params, set):
            raise TypeError("a set of parameters has no order that is the same in every run: give a list")
        found: list[Any] = [params] if isinstance(params, TensorBase) else list(params)
        named = [p for p in found if isinstance(p, tuple)]
        if named:
            if len(named) != len(found):
                raise ValueError("either all parameters of a group come with a name or none does")
            group["param_names"] = [name for name, _ in found]
            found = [p for _, p in found]
        seen = {id(p) for other in self.param_groups for p in other["params"]}
        for p in found:
            if not isinstance(p, TensorBase):
                raise TypeError(f"an optimizer takes tensors, got {type(p).__name__}")
            if p.fn is not None:
                raise ValueError(f"a parameter of shape {tuple(p.shape)} was computed from other tensors "
                                 f"({p.fn.node.name() if hasattr(p.fn, 'node') else p.fn.name()}): only leaves can be "
                                 "optimized")
            if id(p) in seen:
                raise ValueError(f"a parameter of shape {tuple(p.shape)} was given twice")
            seen.add(id(p))
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        group["params"] = found
        self.check_options(group)
        self.param_groups.append(group)

    def check_options(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError for options that make no sense; subclasses say which."""

    # -- one step

    def arrays_of(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the arrays, each in the parameter's shape, that the rule keeps under these options."""
        return ()

    def new_array(self, name: str, group: Mapping[str, Any], like: Any) -> Any:
        """The first content of one such array: zeros."""
        return of(like).xp.zeros_like(like)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: computes the loss anew, with its backward; called once, before the update.

        Returns:
            What the closure returned, or None.
        """
        for hook in self._pre_hooks.snapshot():
            hook(self, (closure,), {})
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        if self.rule is None:
            raise NotImplementedError(f"{type(self).__name__} has neither a rule nor a step()")
        for number, group in enumerate(self.param_groups):
            self._step_group(self.rule, number, group)
        self.mark({p.placement.group for group in self.param_groups for p in group["params"] if p.placement})
        self.steps_taken += 1
        for hook in self._post_hooks.snapshot():
            hook(self, (closure,), {})
        return loss

    def mark(self, placed: Iterable[Group]) -> None:
        """Leave a fingerprint of all options where the ranks that share gradients compare them."""
        if any(flat.ranks > 1 for flat in placed):
            values = [value for group in self.param_groups for name, value in group.items() if name != "params"]
            if len(values) != len(self._marked) or not all(map(is_, values, self._marked)):
                options = [sorted((name, repr(value)) for name, value in group.items() if not name.startswith("param"))
                           for group in self.param_groups]
                self._marked, self._mark = values, zlib.crc32(repr(options).encode()) or 1
            for flat in placed:
                flat.mark = self._mark

    def _step_group(self, rule: Rule, number: int, group: dict[str, Any]) -> None:
        """The step of one parameter group, as many parameters at a time as may be."""
        sign = -1.0 if group.get("maximize") else 1.0
        names = self.arrays_of(group)
        together: dict[Any, list[Any]] = {}
        for p in group["params"]:
            if p._grad is not None:
                place = p.placement
                if place is not None and place.read_only is not None:
                    raise RuntimeError(f"{type(self).__name__}: {place.read_only}")
                factor: Factor = place.group.factor if place is not None and place.leaf_grad_is_home() else 1.0
                kind = (self._count(p, group, names), factor, p.array.dtype, p.array.__class__)
                together.setdefault(kind, []).append(p)
        position = 0
        for (step, factor, *_), alike in together.items():
            for params in each_place(alike):
                arrays = {name: [self.state[p][name].array for p in params] for name in names}
                run = self._runs.get((number, position))
                if run is None or not run.fits(params, arrays):
                    run = self._runs[number, position] = Run(rule, params, arrays)
                run.step([p._grad.array for p in params], group, step, operand(factor, sign))
                for p in params:
                    p.bump()
                position += 1

    def _count(self, p: Any, group: dict[str, Any], names: Sequence[str]) -> int:
        """The number of this parameter's step from 1; its state is there afterwards."""
        state = self.state[p]
        step = 2  # for a rule without a count all that matters is whether it is the first
        if self.counted:
            if "step" not in state:
                state["step"] = wrap(get("cpu").xp.zeros((), "float32"))  # read at every step: it stays on the host
            count = state["step"].array
            count += 1
            step = int(count)
        for name in names:
            if name not in state:
                state[name] = wrap(self.new_array(name, group, p.array))
                step = step if self.counted else 1
        return step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to zero in place."""
        for group in self.param_groups:
            for p in group["params"]:
                clear_grad(p, set_to_none)

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(optimizer, args, kwargs) before each step."""
        return self._pre_hooks.add(hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(optimizer, args, kwargs) after each step."""
        return self._post_hooks.add(hook)

    # -- saving and loading

    def state_dict(self) -> dict[str, Any]:
        """{'state': {number: {name: value}}, 'param_groups': [...]}, parameters numbered through all groups.

        Tensors share the optimizer's memory.
        """
        numbers = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = []
        for group in self.param_groups:
            packed = {name: value for name, value in group.items() if name != "params"}
            groups.append({**packed, "params": [numbers[id(p)] for p in group["params"]]})
        return {"state": {numbers[id(p)]: value for p, value in self.state.items() if id(p) in numbers},
                "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state and options from `state_dict()` of an optimizer over parameters of the same sizes.

        Tensors are copied, into the dtype, device and memory order of their parameters.

        Raises:
            ValueError: groups or their sizes differ, or a state's shape is not its parameter's. Nothing was changed.
        """
        by_number = self.check_state_dict(state_dict)
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for number, values in state_dict["state"].items():
            if number in by_number:
                p = by_number[number]
                state[p] = {name: _taken_over(name, value, p) for name, value in values.items()}
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        self.state = state

    def check_state_dict(self, state_dict: Mapping[str, Any]) -> dict[int, Any]:
        """For each number in a state the parameter that it means here, if the state fits. Changes nothing.

        Raises:
            ValueError: groups or their sizes differ, or a state's shape is not its parameter's.
        """
        given = state_dict["param_groups"]
        if len(given) != len(self.param_groups):
            raise ValueError(f"the state has {len(given)} parameter groups, the optimizer {len(self.param_groups)}")
        by_number: dict[int, Any] = {}
        for position, (saved, group) in enumerate(zip(given, self.param_groups, strict=True)):
            if len(saved["params"]) != len(group["params"]):
                raise ValueError(f"group {position} of the state has {len(saved['params'])} parameters, the "
                                 f"optimizer's has {len(group['params'])}")
            by_number.update(zip(saved["params"], group["params"], strict=True))
        for number, values in state_dict["state"].items():
            for name, value in values.items() if number in by_number else ():
                p = by_number[number]
                if name != "step" and hasattr(value, "shape") and tuple(value.shape) != tuple(p.shape):
                    raise ValueError(f"the state {name!r} has shape {tuple(value.shape)}, its parameter "
                                     f"{tuple(p.shape)}")
        return by_number

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join(lines) + "\n)"


def _taken_over(name: str, value: Any, p: Any) -> Any:
    """A loaded value as this parameter's state: tensors copied, in the parameter's dtype unless it is the count."""
    if not isinstance(value, TensorBase):
        return value
    xp = of(p.array).xp
    if name == "step":
        return wrap(get("cpu").xp.array(of(value.array).to_host(value.array)))
    array = xp.empty_like(p.array)
    of(p.array).fill_from_host(array, of(value.array).to_host(value.array))
    return wrap(array)

