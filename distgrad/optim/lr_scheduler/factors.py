"""Schedules by a factor of the epoch: lr = (base - floor) * factor(epoch) + floor.

They multiply the rate they find by factor(epoch) / factor(epoch - 1), so that several may act together, and
a rate that the user changes meanwhile stays changed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable

from .base import LRScheduler, Scheduled

__all__ = ["ConstantLR", "CosineAnnealingLR", "ExponentialLR", "FactorLR", "LambdaLR", "LinearLR", "MultiStepLR",
           "MultiplicativeLR", "PolynomialLR", "StepLR"]


class FactorLR(LRScheduler):
    """Base of schedules with a factor; subclasses define `factor`, and `floor` if it is not 0."""

    floor = 0.0

    def factor(self, epoch: int) -> float:
        """What the initial rate (above the floor) is multiplied by at this epoch."""
        raise NotImplementedError(f"{type(self).__name__} has no factor()")

    def get_lr(self) -> list[float]:
        now = self.factor(self.last_epoch)
        before = 1.0 if self.last_epoch == 0 else self.factor(self.last_epoch - 1)
        if before == 0:  # nothing is left that could be multiplied
            return [(base - self.floor) * now + self.floor for base in self.base_lrs]
        if now == before:
            return self._current()
        return [(lr - self.floor) * (now / before) + self.floor for lr in self._current()]


class StepLR(FactorLR):
    """Times gamma every `step_size` epochs."""

    def __init__(self, optimizer: Scheduled, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        return self.gamma ** (epoch // self.step_size)


class MultiStepLR(FactorLR):
    """Times gamma at each of `milestones`; one that is there twice counts twice."""

    def __init__(self, optimizer: Scheduled, milestones: Iterable[int], gamma: float = 0.1,
                 last_epoch: int = -1) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        return self.gamma ** bisect_right(self.milestones, epoch)


class ExponentialLR(FactorLR):
    """Times gamma every epoch."""

    def __init__(self, optimizer: Scheduled, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        return self.gamma ** epoch


class ConstantLR(FactorLR):
    """Times `factor` until epoch `total_iters`, then the initial rate.

    Raises:
        ValueError: the factor is outside of [0, 1].
    """

    def __init__(self, optimizer: Scheduled, factor: float = 1 / 3, total_iters: int = 5,
                 last_epoch: int = -1) -> None:
        if not 0 <= factor <= 1:
            raise ValueError(f"ConstantLR's factor lies in [0, 1], got {factor}")
        self.first_factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        return self.first_factor if epoch < self.total_iters else 1.0


class LinearLR(FactorLR):
    """A factor that goes linearly from start_factor to end_factor in `total_iters` epochs: a warm-up.

    Raises:
        ValueError: start_factor is outside of (0, 1], or end_factor outside of [0, 1].
    """

    def __init__(self, optimizer: Scheduled, start_factor: float = 1 / 3, end_factor: float = 1.0,
                 total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(f"LinearLR's start_factor lies in (0, 1], got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR's end_factor lies in [0, 1], got {end_factor}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        if epoch >= self.total_iters:
            return self.end_factor
        return self.start_factor + (self.end_factor - self.start_factor) * epoch / self.total_iters


class PolynomialLR(FactorLR):
    """(1 - epoch / total_iters)^power, and 0 from `total_iters` on."""

    def __init__(self, optimizer: Scheduled, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        return float((1 - min(epoch, self.total_iters) / self.total_iters) ** self.power)


class CosineAnnealingLR(FactorLR):
    """Along half a cosine from the initial rate to eta_min in T_max epochs, and back if it goes on.

    lr = eta_min + (base - eta_min) * (1 + cos(pi * epoch / T_max)) / 2 (Loshchilov and Hutter, 2017).
    """

    def __init__(self, optimizer: Scheduled, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = self.floor = eta_min
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        return (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class LambdaLR(LRScheduler):
    """The initial rate times lr_lambda(epoch); one function, or one for each group."""

    def __init__(self, optimizer: Scheduled, lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
                 last_epoch: int = -1) -> None:
        self.optimizer = optimizer
        self.lr_lambdas = self._for_each("lr_lambda", lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]


class MultiplicativeLR(LambdaLR):
    """The rate times lr_lambda(epoch) at every epoch after the first."""

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._current()
        return [lr * f(self.last_epoch) for lr, f in zip(self._current(), self.lr_lambdas, strict=True)]
