"""Every kernel in readable form, generic in `xp`: the truth that faster ones are tested against.

A kernel is a pure function `kernel(xp, *arrays, **scalars)`, registered by its own name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ._register import REGISTRY

__all__ = ["find"]

_MODULES = ("pointwise", "softmax", "linear", "loss", "normalize", "columns", "convolve", "pool", "recurrent",
            "dropout", "reduce", "scatter", "update", "norm", "watch", "bfloat16", "attention")


def find(name: str) -> Callable[..., Any]:
    """The reference kernel of that name; AttributeError when there is none."""
    if name not in REGISTRY:
        for module in _MODULES:
            importlib.import_module(f"{__name__}.{module}")
    try:
        return REGISTRY[name]
    except KeyError:
        raise AttributeError(f"no kernel is named {name!r}") from None
