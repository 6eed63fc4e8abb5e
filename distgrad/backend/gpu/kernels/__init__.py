"""What is faster on a GPU than the reference kernels over cupy's namespace; same names, signatures and meaning.

    find(name) -> a module by purpose (arguments checked) -> launch (compiled when first called)
                                                          -> products (cuBLAS), ../cudnn

Each module has the CUDA C++ of its kernels beside their callers; what all share is in source.

What they cannot take (16 bits, complex numbers, memory in pieces, rare options) goes to the reference.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["find"]

_MODULES = {
    "attention": ("attention", "attention_backward"),
    "convolve": ("conv2d", "conv2d_grad_input", "conv2d_grad_weight"),
    "division": ("floor_divide", "remainder"),
    "dropout": ("dropout", "dropout_backward"),
    "indexed": ("gather", "index_add", "index_put", "scatter_add"),
    "lines": ("gelu", "gelu_backward", "gelu_tanh", "gelu_tanh_backward", "in_range", "log_sigmoid",
              "probabilities", "relu_backward", "sigmoid", "sigmoid_backward", "silu", "tanh_backward"),
    "many": ("adam_plan", "clip_factor", "multiply_", "norm_blocks", "norm_from", "norms_of", "sgd_plan"),
    "norms": ("batch_norm", "normalize", "normalize_backward"),
    "pool": ("avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward", "max_pool2d_gather"),
    "products": ("linear", "matmul"),
    "recurrent": ("gru_layer", "gru_layer_backward", "lstm_layer", "lstm_layer_backward", "rnn_layer",
                  "rnn_layer_backward"),
    "rows": ("cross_entropy", "cross_entropy_backward", "log_softmax", "log_softmax_backward", "softmax",
             "softmax_backward"),
    "sums": ("conv2d_grad_bias", "sum_leading"),
    "truth": ("logical_and", "logical_not", "logical_or", "logical_xor"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def find(name: str) -> Callable[..., Any] | None:
    """The override of that name; None where the reference serves."""
    if name not in _WHERE:
        return None
    override: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    return override
