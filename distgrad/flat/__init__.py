"""Flat memory: where the gradients of many parameters lie side by side, and in which state they are.

A Layout says where each parameter's slot is; a Group is one flat gradient buffer with its state; a
Placement ties one parameter to its slot. Clipping, optimizers and data parallelism do not see each
other: they meet here. It knows neither graph nor wire; both give it callables and tensors.
"""

from .factor import DeviceFactor, Factor, clip_factor, multiply_, operand
from .group import Group, not_finite
from .layout import GRID, Layout, Range, Slot, plan, share
from .placement import Placement
from .state import State

__all__ = ["GRID", "DeviceFactor", "Factor", "Group", "Layout", "Placement", "Range", "Slot", "State", "clip_factor",
           "multiply_", "not_finite", "operand", "plan", "share"]
