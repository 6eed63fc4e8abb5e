"""Compiled overrides of reference kernels, for processors, where numba is installed (the extra `fast`).

    find(name) -> sums / update / watch (an override: arguments checked) -> native (a C function, cached on disk)
                                                                     -> build (numba, only when it is not cached)

They have the reference's signatures and meaning; what they cannot take (another dtype, odd memory) goes
to the reference. Nothing in them reorders arithmetic by the processor's vector width, so their bits depend
neither on how memory is cut nor on the machine. They know arrays, and neither graphs nor ranks.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from ...config import config

__all__ = ["find"]

_MODULES = {
    "bfloat16": ("from_bfloat16", "to_bfloat16"),
    "dropout": ("dropout", "dropout_backward"),
    "columns": ("sum_leading",),
    "scatter": ("index_add", "index_put"),
    "loss": ("cross_entropy", "cross_entropy_backward"),
    "normalize": ("batch_norm", "normalize", "normalize_backward"),
    "attention": ("attention", "attention_backward"),
    "pointwise": ("erf", "exp", "gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward", "log_sigmoid",
                  "log_sigmoid_backward", "relu", "relu_backward", "sigmoid", "sigmoid_backward", "silu",
                  "silu_backward", "tanh", "tanh_backward"),
    "convolve": ("conv2d", "conv2d_grad_input", "conv2d_grad_weight"),
    "pool": ("avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward"),
    "softmax": ("log_softmax", "log_softmax_backward", "softmax", "softmax_backward"),
    "recurrent": ("gru_layer", "gru_layer_backward", "lstm_layer", "lstm_layer_backward", "rnn_layer",
                  "rnn_layer_backward"),
    "sums": ("norm_blocks", "norms_of", "mean_of_ranks", "sum_of_ranks"),
    "share": ("share_plan",),
    "update": ("adam_", "adam_plan", "sgd_", "sgd_plan"),
    "watch": ("watch_plan",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def find(name: str) -> Callable[..., Any] | None:
    """The override of that name; None where there is none, or numba is not installed, or DISTGRAD_KERNELS=reference."""
    if name not in _WHERE or config.kernels == "reference" or find_spec("numba") is None:
        return None
    try:
        module = importlib.import_module(f"{__name__}.{_WHERE[name]}")
    except (ImportError, OSError) as error:
        warnings.warn(f"numba is installed, but its LLVM cannot be loaded; numpy's kernels are used: {error}",
                      stacklevel=2)
        return None
    override: Callable[..., Any] = getattr(module, name)
    return override
