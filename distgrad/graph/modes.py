"""Grad mode, inference mode and anomaly mode: one word of flags per thread, read once an op.

Every mode is a context manager and a decorator; entering saves the whole word, leaving restores it.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["ANOMALY", "ANOMALY_INF", "ANOMALY_NAN", "DUAL", "EXTRAS", "GRAD", "GUARDING", "INFERENCE", "PACKING",
           "Mode", "Switch", "enable_grad", "inference_mode", "is_grad_enabled", "is_inference_mode_enabled", "no_grad",
           "set_grad_enabled", "state"]

GRAD = 1           # operations are recorded
INFERENCE = 2      # results are inference tensors; nothing records, whatever GRAD says
ANOMALY = 4        # nodes remember where they were made
ANOMALY_NAN = 8    # backward raises when a rule returns NaN
ANOMALY_INF = 16   # ... or Inf
PACKING = 32       # saved tensors pass through hooks
DUAL = 128         # tensors may carry tangents (forward mode)
GUARDING = 64      # saved arrays are read-only while a graph holds them
EXTRAS = ANOMALY | PACKING | GUARDING  # what recording an operation has to look at beyond the usual


class _State(threading.local):
    flags: int = GRAD


state = _State()


class Mode:
    """Base of the modes: `flags_on` are set and `flags_off` cleared while the body runs."""

    flags_on = 0
    flags_off = 0
    _saved: list[int]

    def __enter__(self) -> Any:
        stack = self.__dict__.setdefault("_saved", [])
        stack.append(state.flags)
        state.flags = (state.flags & ~self.flags_off) | self.flags_on

    def __exit__(self, *exc: object) -> None:
        state.flags = self._saved.pop()

    def _fresh(self) -> Mode:
        """A mode with these settings and no saved words: a decorated function may recurse or run in threads."""
        fresh = object.__new__(type(self))
        fresh.flags_on, fresh.flags_off = self.flags_on, self.flags_off
        return fresh

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isclass(function):
            raise TypeError(f"{type(self).__name__} decorates functions; {function.__name__} is a class: "
                            "decorate its methods")
        if inspect.isgeneratorfunction(function):
            return self._decorate_generator(function)

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self._fresh():
                return function(*args, **kwargs)

        return inside

    def _decorate_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The body runs in the mode, the consumer between two items does not."""

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            step, value = generator.send, None
            while True:
                try:
                    with self._fresh():
                        item = step(value)
                except StopIteration as stop:
                    return stop.value
                try:
                    step, value = generator.send, (yield item)
                except GeneratorExit:
                    with self._fresh():
                        generator.close()
                    raise
                except BaseException as error:
                    step, value = generator.throw, error

        return inside


class _Bare(Mode):
    """A mode without settings, which may decorate without parentheses."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        mode = super().__new__(cls)
        return mode if function is None else mode(function)


class no_grad(_Bare):
    """Results of operations inside do not require grad; nothing is recorded."""

    flags_off = GRAD


class enable_grad(_Bare):
    """Record inside, where an outer `no_grad` had stopped it (not inside `inference_mode`)."""

    flags_on = GRAD


class Switch(Mode):
    """A mode that is set as soon as it is made: a function call, a context, or a decorator.

    As a context it restores on leaving what was before it was made; as a decorator it affects only
    the decorated function.
    """

    def __init__(self, flags_on: int, flags_off: int) -> None:
        self._saved = [state.flags]
        self.flags_on, self.flags_off = flags_on, flags_off
        state.flags = (state.flags & ~flags_off) | flags_on

    def __enter__(self) -> Any:
        if self.__dict__.get("_saved"):  # the first time, the constructor has done it
            state.flags = (state.flags & ~self.flags_off) | self.flags_on
        else:
            super().__enter__()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        state.flags = self._saved.pop()
        return super().__call__(function)


class set_grad_enabled(Switch):
    """Set grad mode to `mode`."""

    def __init__(self, mode: bool) -> None:
        super().__init__(*((GRAD, 0) if mode else (0, GRAD)))


class inference_mode(Mode):
    """Nothing is recorded and results carry no version: they can never enter a later graph.

    Args:
        mode: False leaves inference mode for the length of the body. May also be the function
            to decorate.
    """

    def __new__(cls, mode: bool | Callable[..., Any] = True) -> Any:
        return cls(True)(mode) if callable(mode) else super().__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        self.flags_on, self.flags_off = (INFERENCE, GRAD) if mode else (GRAD, INFERENCE)


def is_grad_enabled() -> bool:
    """This thread's grad mode. (Inside `inference_mode` nothing is recorded, whatever it says.)"""
    return bool(state.flags & GRAD)


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside `inference_mode()`."""
    return bool(state.flags & INFERENCE)
