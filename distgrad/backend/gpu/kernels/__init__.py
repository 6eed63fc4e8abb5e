"""What is faster on a GPU than the reference kernels over cupy's namespace; same names, signatures and meaning.

    find(name) -> rows / lines / recurrent (arguments checked) -> launch (compiled when first called) -> source

What they cannot take (16 bits, complex numbers, memory in pieces, rare options) goes to the reference.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["find"]

_MODULES = {
    "division": ("floor_divide", "remainder"),
    "lines": ("adam_", "adam_plan", "gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward", "in_range",
              "log_sigmoid", "norm_blocks", "relu_backward", "sgd_", "sgd_plan", "sigmoid", "sigmoid_backward", "silu",
              "tanh_backward"),
    "recurrent": ("gru_layer", "gru_layer_backward", "lstm_layer", "lstm_layer_backward"),
    "rows": ("attention", "attention_backward", "cross_entropy", "cross_entropy_backward", "log_softmax",
             "log_softmax_backward", "normalize", "normalize_backward", "softmax", "softmax_backward"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def find(name: str) -> Callable[..., Any] | None:
    """The override of that name; None where the reference serves."""
    if name not in _WHERE:
        return None
    override: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    return override
