"""Anomaly mode: nodes remember the user's line that made them, and backward checks what rules return.

The checks look for NaN, and for Inf where `check_inf` was asked for. The report names the
operation, its shapes, the forward line and the rank.
"""

from __future__ import annotations

import linecache
import os.path
import sys
from types import FrameType
from typing import Any

from ..backend import of
from ..errors import AnomalyError, rank_prefix
from .base import TensorBase
from .modes import ANOMALY, ANOMALY_INF, ANOMALY_NAN, Mode, Switch, state
from .places import beside

__all__ = ["Where", "check", "detect_anomaly", "mark", "set_detect_anomaly", "where"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_DEPTH = 6


class Where:
    """The user's lines that led to an operation, innermost first, and whether its result was finite."""

    __slots__ = ("finite", "frames")

    def __init__(self, frames: list[tuple[str, int, str]]) -> None:
        self.frames = frames
        self.finite = True

    def __str__(self) -> str:
        return "\n".join(f'  File "{file}", line {line}, in {function}\n    {linecache.getline(file, line).strip()}'
                         for file, line, function in self.frames)


def where() -> Where:
    """The lines of the caller's stack that are not distgrad's own."""
    frame: FrameType | None = sys._getframe(1)
    frames: list[tuple[str, int, str]] = []
    while frame is not None and len(frames) < _DEPTH:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            frames.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return Where(frames)


def mark(node: Any, *results: Any) -> None:
    """Note where a node was made, and whether its forward results are finite."""
    node.made_at = where()
    node.made_at.finite = all(_bad(result, with_inf=True) is None for result in results)


def check(node: Any, grads: Any) -> None:
    """Look at what a rule returned.

    Raises:
        AnomalyError: a gradient has NaN (or Inf, when asked for).
    """
    with_inf = bool(state.flags & ANOMALY_INF)
    for index, g in enumerate(grads if isinstance(grads, tuple) else (grads,)):
        if g is None or node.edges[index] is None:
            continue
        found = _bad(g.array if isinstance(g, TensorBase) else g, with_inf)
        if found is None:
            continue
        lines = [f"{rank_prefix()}{node.name()} returned {found} in the gradient of its input {index}, "
                 f"of shape {tuple(g.shape)}; the operation's result has shape {node.shape}."]
        if node.made_at is None:
            lines.append("The operation ran before anomaly mode was on, so its line is not known.")
        else:
            if not node.made_at.finite:
                lines.append("Its forward result already held NaN or Inf.")
            lines.append(f"The operation was called at (innermost line first):\n{node.made_at}")
        raise AnomalyError("\n".join(lines))


def _bad(array: Any, with_inf: bool) -> str | None:
    """'NaN' or 'Inf' when the array has one."""
    if array.dtype.kind not in "fc":
        return None
    xp = of(array).xp
    with beside((array,)):
        if xp.isnan(array).any():
            return "NaN"
        return "Inf" if with_inf and xp.isinf(array).any() else None


class detect_anomaly(Mode):
    """Inside, a backward that makes NaN or Inf raises, naming the forward line that led to it.

    Args:
        check_nan: look for NaN; False only records the lines, for errors of other kinds.
        check_inf: look for Inf as well (torch does not).
    """

    def __init__(self, check_nan: bool = True, check_inf: bool = True) -> None:
        self.flags_on, self.flags_off = _words(True, check_nan, check_inf)


class set_detect_anomaly(Switch):
    """Switch anomaly mode on or off; the arguments are those of `detect_anomaly`."""

    def __init__(self, mode: bool, check_nan: bool = True, check_inf: bool = True) -> None:
        super().__init__(*_words(mode, check_nan, check_inf))


def _words(mode: bool, check_nan: bool, check_inf: bool) -> tuple[int, int]:
    both = ANOMALY | ANOMALY_NAN | ANOMALY_INF
    if not mode:
        return 0, both
    on = ANOMALY | (ANOMALY_NAN if check_nan else 0) | (ANOMALY_INF if check_nan and check_inf else 0)
    return on, both & ~on
