"""Schedules that go up and down: one cycle, and cosines with warm restarts."""

from __future__ import annotations

import math
from typing import Any

from .base import LRScheduler, Scheduled

__all__ = ["CosineAnnealingWarmRestarts", "OneCycleLR"]


def _cosine(start: float, end: float, part: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


def _linear(start: float, end: float, part: float) -> float:
    return start + (end - start) * part


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down far below (Smith and Topin, 2018). Step after each batch.

    Args:
        max_lr: one for all groups, or one each.
        total_steps: of the cycle; or give `epochs` and `steps_per_epoch`.
        pct_start: the part of the cycle that goes up.
        anneal_strategy: 'cos' or 'linear'.
        cycle_momentum: momentum (or beta1) goes from max_momentum to base_momentum and back meanwhile.
        div_factor, final_div_factor: the first rate is max_lr / div_factor, the last is that / final_div_factor.
        three_phase: down to the first rate as long as it went up, and to the last in what is left.

    Raises:
        ValueError: settings that make no cycle, or more steps than it has.
    """

    def __init__(self, optimizer: Scheduled, max_lr: Any, total_steps: int | None = None, epochs: int | None = None,
                 steps_per_epoch: int | None = None, pct_start: float = 0.3, anneal_strategy: str = "cos",
                 cycle_momentum: bool = True, base_momentum: Any = 0.85, max_momentum: Any = 0.95,
                 div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
                 last_epoch: int = -1) -> None:
        self.optimizer = optimizer
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps <= 0:
            raise ValueError(f"OneCycleLR: the number of steps is positive, got {total_steps}")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start lies in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy is 'cos' or 'linear', got {anneal_strategy!r}")
        self.total_steps = total_steps
        self.anneal_strategy = anneal_strategy
        up = pct_start * total_steps - 1
        # (last step of the phase, from, to), with the names of the group's own values
        self.phases = [(up, "initial", "max")]
        if three_phase:
            self.phases += [(2 * up, "max", "initial"), (total_steps - 1, "initial", "min")]
        else:
            self.phases.append((total_steps - 1, "max", "min"))
        self.cycle_momentum = cycle_momentum
        highest = self._for_each("max_lr", max_lr)
        lows, highs = self._for_each("base_momentum", base_momentum), self._for_each("max_momentum", max_momentum)
        if cycle_momentum and not all("momentum" in g or "betas" in g for g in optimizer.param_groups):
            raise ValueError("OneCycleLR: cycle_momentum needs an optimizer with momentum or betas")
        if last_epoch == -1:
            for group, high, low_m, high_m in zip(optimizer.param_groups, highest, lows, highs, strict=True):
                group["initial_lr"] = high / div_factor
                group["max_lr"] = high
                group["min_lr"] = high / div_factor / final_div_factor
                if cycle_momentum:
                    group["base_momentum"], group["max_momentum"] = low_m, high_m
        super().__init__(optimizer, last_epoch)

    def _phase(self) -> tuple[str, str, float]:
        """From which rate to which, and how far, at this step."""
        start = 0.0
        for end, source, target in self.phases:
            if self.last_epoch <= end or end == self.phases[-1][0]:
                return source, target, (self.last_epoch - start) / (end - start) if end != start else 1.0
            start = end
        raise AssertionError("the last phase ends the loop")

    def get_lr(self) -> list[float]:
        if self.last_epoch > self.total_steps:
            raise ValueError(f"OneCycleLR: step {self.last_epoch + 1} of a cycle of {self.total_steps}")
        anneal = _cosine if self.anneal_strategy == "cos" else _linear
        source, target, part = self._phase()
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(anneal(group[f"{source}_lr"], group[f"{target}_lr"], part))
            if self.cycle_momentum:
                # Momentum is low where the rate is at its height.
                ends = ["base_momentum" if name == "max" else "max_momentum" for name in (source, target)]
                momentum = anneal(group[ends[0]], group[ends[1]], part)
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return rates


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine from the initial rate to eta_min, again and again (Loshchilov and Hutter, 2017).

    Args:
        T_0: epochs of the first descent; T_mult: each further one takes that many times as long.

    Raises:
        ValueError: T_0 or T_mult is no positive integer.
    """

    def __init__(self, optimizer: Scheduled, T_0: int, T_mult: int = 1, eta_min: float = 0.0,
                 last_epoch: int = -1) -> None:
        for name, value in (("T_0", T_0), ("T_mult", T_mult)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is a positive integer, got {value}")
        self.T_0 = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        length, epoch = self.T_0, self.last_epoch
        while epoch >= length:
            epoch -= length
            length *= self.T_mult
        return [_cosine(base, self.eta_min, epoch / length) for base in self.base_lrs]
