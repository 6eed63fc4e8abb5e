"""The table of reference kernels, filled by `@kernel` when their modules are imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["REGISTRY", "kernel"]

F = TypeVar("F", bound=Callable[..., Any])
REGISTRY: dict[str, Callable[..., Any]] = {}


def kernel(function: F) -> F:
    """Register a reference kernel under its function's name."""
    REGISTRY[function.__name__] = function
    return function
