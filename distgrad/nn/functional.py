"""torch.nn.functional's names: layers as plain functions, without parameters of their own.

Most are ops under the name and signature by which users know them; the rest are composed here.
"""

from __future__ import annotations

import warnings
from typing import Any

from ..ops import dropout as _dropout
from ..ops import index as _index
from ..ops import pointwise as _pointwise
from ..ops import softmax as _softmax
from ..ops.conv import conv1d, conv2d, conv_transpose2d
from ..ops.index import one_hot
from ..ops.inplace import in_place
from ..ops.linear import linear
from ..ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from ..ops.normalize import batch_norm, group_norm, layer_norm, rms_norm
from ..ops.pointwise import gelu, softplus
from ..ops.pointwise import log_sigmoid as logsigmoid
from ..ops.pointwise import sigmoid as sigmoid
from ..ops.pointwise import tanh as tanh
from ..ops.pool import adaptive_avg_pool1d, adaptive_avg_pool2d, avg_pool1d, avg_pool2d, max_pool1d, max_pool2d
from ..ops.select import clamp
from ..ops.shape import pad
from . import _activations as _act
from ._activations import glu, hardshrink, prelu, softshrink, softsign, tanhshrink
from .attention import scaled_dot_product_attention

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "batch_norm", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "celu", "conv1d", "conv2d", "conv_transpose2d", "cosine_similarity",
    "cross_entropy", "dropout", "dropout1d", "dropout2d", "elu", "embedding", "gelu", "glu", "group_norm",
    "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "huber_loss", "instance_norm", "kl_div", "l1_loss",
    "layer_norm", "leaky_relu", "linear", "log_softmax", "logsigmoid", "max_pool1d", "max_pool2d", "mish", "mse_loss",
    "nll_loss", "normalize", "one_hot", "pad", "prelu", "relu", "relu6", "rms_norm", "scaled_dot_product_attention",
    "selu", "sigmoid", "silu", "smooth_l1_loss", "softmax", "softmin", "softplus", "softshrink", "softsign", "tanh",
    "tanhshrink", "threshold",
]


# -- activations that torch can write into their input

def _maybe_in_place(name: str, inplace: bool, op: Any, input: Any, *args: Any) -> Any:
    return in_place(f"{name}_", input, op, *args) if inplace else op(input, *args)


def relu(input: Any, inplace: bool = False) -> Any:
    """max(x, 0); the slope at 0 is 0."""
    return _maybe_in_place("relu", inplace, _pointwise.relu, input)


def relu6(input: Any, inplace: bool = False) -> Any:
    """min(max(x, 0), 6)."""
    return _maybe_in_place("relu6", inplace, _act.relu6, input)


def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """x where positive, else negative_slope * x."""
    return _maybe_in_place("leaky_relu", inplace, _pointwise.leaky_relu, input, negative_slope)


def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where positive, else alpha * (exp(x) - 1)."""
    return _maybe_in_place("elu", inplace, _act.elu, input, alpha)


def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where positive, else alpha * (exp(x / alpha) - 1)."""
    return _maybe_in_place("celu", inplace, _act.celu, input, alpha)


def selu(input: Any, inplace: bool = False) -> Any:
    """Self-normalising elu (Klambauer et al., 2017)."""
    return _maybe_in_place("selu", inplace, _act.selu, input)


def silu(input: Any, inplace: bool = False) -> Any:
    """x * sigmoid(x)."""
    return _maybe_in_place("silu", inplace, _pointwise.silu, input)


def mish(input: Any, inplace: bool = False) -> Any:
    """x * tanh(softplus(x))."""
    return _maybe_in_place("mish", inplace, _act.mish, input)


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """x brought into [min_val, max_val]."""
    return _maybe_in_place("hardtanh", inplace, _act.hardtanh, input, min_val, max_val)


def hardsigmoid(input: Any, inplace: bool = False) -> Any:
    """min(max(x + 3, 0), 6) / 6."""
    return _maybe_in_place("hardsigmoid", inplace, _act.hardsigmoid, input)


def hardswish(input: Any, inplace: bool = False) -> Any:
    """x * hardsigmoid(x)."""
    return _maybe_in_place("hardswish", inplace, _act.hardswish, input)


def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    """x where x > threshold, else value."""
    return _maybe_in_place("threshold", inplace, _act.threshold, input, threshold, value)


# -- dropout

def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """In training each element 0 with probability p, else divided by 1 - p.

    Raises:
        ValueError: p is outside [0, 1].
    """
    return _maybe_in_place("dropout", inplace, _dropout.dropout, input, p, training)


def dropout1d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Dropout of whole channels of (N, C, L), or (C, L)."""
    if input.ndim == 2:
        return dropout1d(input.unsqueeze(0), p, training, inplace).squeeze(0)
    return _maybe_in_place("dropout1d", inplace, _dropout.feature_dropout, input, p, training)


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Dropout of whole channels of (N, C, H, W)."""
    return _maybe_in_place("dropout2d", inplace, _dropout.feature_dropout, input, p, training)


# -- softmax

def _dim(name: str, dim: int | None, ndim: int) -> int:
    """The dimension, guessed as torch does where none was given."""
    if dim is None:
        warnings.warn(f"{name}: give dim; without it, dimension 0 is taken for 0, 1 and 3 dimensions and 1 for others",
                      UserWarning, stacklevel=3)
        return 0 if ndim in (0, 1, 3) else 1
    return dim


def softmax(input: Any, dim: int | None = None, dtype: Any = None) -> Any:
    """exp(x) / sum(exp(x)) along `dim`."""
    return _softmax.softmax(input, _dim("softmax", dim, input.ndim), dtype=dtype)


def log_softmax(input: Any, dim: int | None = None, dtype: Any = None) -> Any:
    """The logarithm of softmax, without overflow."""
    return _softmax.log_softmax(input, _dim("log_softmax", dim, input.ndim), dtype=dtype)


def softmin(input: Any, dim: int | None = None, dtype: Any = None) -> Any:
    """softmax(-x)."""
    return _softmax.softmax(-input, _dim("softmin", dim, input.ndim), dtype=dtype)


# -- others

def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Rows of `weight` at the integers `input`; the row `padding_idx` gets no gradient."""
    return _index.embedding(weight, input, padding_idx)


def normalize(input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Any:
    """x / max(norm(x, p), eps) along `dim`."""
    return input / clamp(input.norm(p, dim, True), min=eps)


def instance_norm(input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None,
                  bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> Any:
    """Each channel of each sample of (N, C, ...) to mean 0 and variance 1, then * weight + bias.

    Raises:
        NotImplementedError: running statistics, which only batch_norm keeps.
        ValueError: a channel of a sample has one element.
    """
    if running_mean is not None or running_var is not None or not use_input_stats:
        raise NotImplementedError("instance_norm keeps no running statistics; use batch_norm, or leave them out")
    if input.numel() == input.shape[0] * input.shape[1]:
        raise ValueError(f"instance_norm: a channel needs more than one element, got shape {tuple(input.shape)}")
    return group_norm(input, input.shape[1], weight, bias, eps)
