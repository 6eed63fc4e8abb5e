"""LRScheduler: sets the learning rate of an optimizer's groups as epochs (or steps) are counted.

A subclass says in `get_lr` what the rates are at `self.last_epoch`. Schedules that multiply what they
find, instead of setting it, can be used together on one optimizer; see factors.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from ..optimizer import Optimizer

__all__ = ["LRScheduler", "Scheduled", "check_scheduled"]


class Scheduled(Protocol):
    """What a schedule asks of an optimizer, be it whole on every rank or sharded.

    Attributes:
        param_groups: dictionaries with an 'lr' each.
        steps_taken: how often `step` was called.
    """

    param_groups: list[dict[str, Any]]
    steps_taken: int


def check_scheduled(name: str, optimizer: Any) -> None:
    """Raise TypeError unless it is an optimizer."""
    if not (hasattr(optimizer, "param_groups") and hasattr(optimizer, "steps_taken")):
        raise TypeError(f"{name} takes an optimizer, got {type(optimizer).__name__}")


class LRScheduler:
    """Base of schedules.

    Args:
        optimizer: whose groups' 'lr' is set; what it is now becomes each group's 'initial_lr'.
        last_epoch: where to go on; -1 starts.

    Attributes:
        base_lrs: each group's initial learning rate.
        last_epoch: how often `step` was called, with the constructor's own call not counted.

    Raises:
        TypeError: no optimizer.
        KeyError: going on from a last_epoch with groups that have no 'initial_lr'.
    """

    def __init__(self, optimizer: Scheduled, last_epoch: int = -1) -> None:
        check_scheduled(type(self).__name__, optimizer)
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", float(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(f"parameter group {number} has no 'initial_lr': to go on from last_epoch={last_epoch}, "
                               "load the optimizer's state first")
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        self._advance()

    def get_lr(self) -> list[float]:
        """The learning rate of each group at `self.last_epoch`; called by `step`."""
        raise NotImplementedError(f"{type(self).__name__} has no get_lr()")

    def get_last_lr(self) -> list[float]:
        """The rates that were set last."""
        return self._last_lr

    def step(self) -> None:
        """Count one epoch and set the learning rates; call it after `optimizer.step()`."""
        kind = type(self.optimizer)
        counts = not issubclass(kind, Optimizer) or kind.step is Optimizer.step  # else its step is the user's own
        if counts and self.last_epoch == 0 and self.optimizer.steps_taken == 0:
            warnings.warn("a schedule's step() came before the optimizer's first: the first learning rate is never "
                          "used; call optimizer.step() first", UserWarning, stacklevel=2)
        self._advance()

    def restart(self) -> None:
        """Begin anew from the initial learning rates, at epoch 0."""
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr
        self.last_epoch = -1
        self._advance()

    def _advance(self) -> None:
        self.last_epoch += 1
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = self._current()

    def _current(self) -> list[float]:
        """The groups' rates as they are now."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _for_each(self, name: str, value: Any) -> list[Any]:
        """One value for each group, given as one for all or as a list."""
        count = len(self.optimizer.param_groups)
        if not isinstance(value, (list, tuple)):
            return [value] * count
        if len(value) != count:
            raise ValueError(f"{name} has {len(value)} values for {count} parameter groups")
        return list(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions."""
        return {name: value for name, value in self.__dict__.items() if name not in ("optimizer", "lr_lambdas")}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where `state_dict()` was taken; the optimizer's own state holds the learning rates."""
        self.__dict__.update({name: value for name, value in state_dict.items() if name != "optimizer"})
