"""JAX's side of the measured models: pure functions of parameters and inputs, with the parameters' names as in torch.

It imports jax, and is imported when a peer is asked for, never by another file's import. How a model is trained
stands in jax_trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax, nn

from .workloads import HEADS

__all__ = ["MODELS", "Model", "cross_entropy"]

Parameters = Mapping[str, Any]  # jax arrays under the names of a state_dict
Model = Callable[[Parameters, Any], Any]  # (parameters, inputs) -> scores (samples, classes)


def cross_entropy(scores: Any, y: Any) -> Any:
    """The mean over samples of -log softmax(scores)[y]."""
    return -jnp.take_along_axis(nn.log_softmax(scores), y[:, None], 1).mean()


def _linear(p: Parameters, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


# -- classifiers of single samples

def _perceptron(p: Parameters, x: Any) -> Any:
    x = nn.relu(_linear(p, "0", x))
    return _linear(p, "4", nn.relu(_linear(p, "2", x)))


def _convolutional(p: Parameters, x: Any) -> Any:
    x = x.transpose(0, 2, 3, 1)  # channels last is what XLA's convolutions on CPUs are written for
    for name in ("0", "3"):
        weight = p[f"{name}.weight"].transpose(2, 3, 1, 0)
        x = lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = nn.relu(x + p[f"{name}.bias"])
        n, height, width, channels = x.shape
        # Half the time of reduce_window, whose derivative is a scatter.
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
    x = nn.relu(_linear(p, "7", x.transpose(0, 3, 1, 2).reshape(len(x), -1)))
    return _linear(p, "9", x)


# -- sequences: x is (time, batch, features), and what does not wait for the step before is one product of all steps

def _recurrent(layer: Callable[..., Any], p: Parameters, x: Any) -> Any:
    for number in range(2):
        weight_ih, weight_hh, bias_ih, bias_hh = (p[f"layers.{name}_l{number}"] for name in (
            "weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        x = layer(x @ weight_ih.T + bias_ih, weight_hh.T, bias_hh)
    return _linear(p, "head", x.reshape(-1, x.shape[-1]))


def _lstm(given: Any, weight: Any, bias: Any) -> Any:
    def step(state: Any, given: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(given + h @ weight, 4, -1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((given.shape[1], len(weight)))
    return lax.scan(step, (zero, zero), given + bias)[1]


def _gru(given: Any, weight: Any, bias: Any) -> Any:
    def step(h: Any, given: Any) -> Any:
        r, z, n = jnp.split(given, 3, -1)
        r_h, z_h, n_h = jnp.split(h @ weight + bias, 3, -1)
        z = nn.sigmoid(z + z_h)
        h = (1 - z) * jnp.tanh(n + nn.sigmoid(r + r_h) * n_h) + z * h
        return h, h

    return lax.scan(step, jnp.zeros((given.shape[1], len(weight))), given)[1]


# -- a language model

def _norm(p: Parameters, name: str, x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def _language_model(p: Parameters, x: Any) -> Any:
    n, length = x.shape
    x = p["token.weight"][x] + p["position.weight"][:length]
    for name in sorted({name.rpartition(".norm1")[0] for name in p if name.endswith(".norm1.weight")}):
        qkv = _linear(p, f"{name}.qkv", _norm(p, f"{name}.norm1", x)).reshape(n, length, 3, HEADS, -1)
        y = nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
        x = x + _linear(p, f"{name}.out", y.reshape(x.shape))
        y = nn.gelu(_linear(p, f"{name}.feed.0", _norm(p, f"{name}.norm2", x)), approximate=False)
        x = x + _linear(p, f"{name}.feed.2", y)
    return _linear(p, "head", _norm(p, "norm", x)).reshape(n * length, -1)


MODELS: dict[str, Model] = {
    "mlp": _perceptron, "mlp_tiny": _perceptron, "mlp_wide": _perceptron,
    "lstm": partial(_recurrent, _lstm), "gru": partial(_recurrent, _gru),
    "gpt": _language_model, "cnn": _convolutional,
}
