"""Schedules made of schedules: one after the other, or all at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from .base import LRScheduler, Scheduled

__all__ = ["ChainedScheduler", "SequentialLR"]


class _Composed(LRScheduler):
    """What holds other schedules: their states are part of its own."""

    _schedulers: list[LRScheduler]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, with the state of each schedule."""
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where `state_dict()` was taken."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "_schedulers"})
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


class SequentialLR(_Composed):
    """One schedule until the first milestone, the next one until the second, and so on.

    Each begins at its own epoch 0 from the initial learning rates.

    Raises:
        ValueError: not one milestone fewer than schedules, none, or schedules of another optimizer.
    """

    def __init__(self, optimizer: Scheduled, schedulers: Sequence[LRScheduler], milestones: Sequence[int],
                 last_epoch: int = -1) -> None:
        if not schedulers or len(milestones) != len(schedulers) - 1:
            raise ValueError(f"SequentialLR: {len(schedulers)} schedules need {max(len(schedulers) - 1, 0)} "
                             f"milestones, got {len(milestones)}")
        for number, scheduler in enumerate(schedulers):
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: schedule {number} belongs to another optimizer")
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch + 1
        self._schedulers[0].restart()  # making the others has moved the rates too
        self._last_lr = self._schedulers[0].get_last_lr()

    def step(self) -> None:
        """Step the schedule whose turn it is; at a milestone, begin the next one."""
        self.last_epoch += 1
        number = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[number]
        if number and self._milestones[number - 1] == self.last_epoch:
            scheduler.restart()
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(_Composed):
    """Several schedules that step together, each on what the one before has set.

    Raises:
        ValueError: none, or they belong to different optimizers.
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Scheduled | None = None) -> None:
        if not schedulers:
            raise ValueError("ChainedScheduler needs at least one schedule")
        self.optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        if any(s.optimizer is not self.optimizer for s in schedulers):
            raise ValueError("ChainedScheduler: the schedules belong to different optimizers")
        self._schedulers = list(schedulers)
        self._last_lr = self._current()

    def step(self) -> None:
        """Step each of them."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._current()
