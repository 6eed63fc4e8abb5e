"""Filling tensors with starting values, in place, outside the graph: torch.nn.init's functions and formulas.

fan_in and fan_out are the numbers of values that one output is summed from, and that one input goes to.
"""

from __future__ import annotations

import math
from typing import Any

from .._tensor.creation import randn
from ..backend import get, of
from ..backend.random import Generator, default_generator
from ..graph.guard import writable
from ..graph.modes import no_grad
from ..graph.places import beside

__all__ = ["calculate_gain", "constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_",
           "orthogonal_", "sparse_", "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_"]

_GAINS = {"linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "conv_transpose1d": 1.0, "conv_transpose2d": 1.0,
          "conv_transpose3d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """How much larger weights before this nonlinearity should be; `param` is leaky_relu's slope.

    Raises:
        ValueError: an unknown nonlinearity, or a slope that is no number.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"leaky_relu's slope is a number, got {slope!r}")
        return math.sqrt(2 / (1 + slope ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"no gain is known for {nonlinearity!r}; known are leaky_relu, {', '.join(_GAINS)}")
    return _GAINS[nonlinearity]


def uniform_(tensor: Any, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Any:
    """Values drawn evenly from [a, b)."""
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Any:
    """Normally distributed values."""
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
                  generator: Generator | None = None) -> Any:
    """Normally distributed values, those outside [a, b] replaced by draws from inside (inverse cdf)."""
    low, high = (0.5 * (1 + math.erf((edge - mean) / (std * math.sqrt(2)))) for edge in (a, b))
    host = get("cpu")
    drawn = (generator or default_generator()).numpy.uniform(2 * low - 1, 2 * high - 1, tensor.shape)
    values = host.xp.clip(host.special.erfinv(drawn) * (std * math.sqrt(2)) + mean, a, b)
    return _write(tensor, _there(tensor, values))


def constant_(tensor: Any, val: float) -> Any:
    """Every element `val`."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Any) -> Any:
    """Every element 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Any) -> Any:
    """Every element 0."""
    return constant_(tensor, 0.0)


def eye_(tensor: Any) -> Any:
    """The identity matrix (1 on the diagonal, also if it is not square); ValueError unless two-dimensional."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_ fills a matrix, got shape {tuple(tensor.shape)}")
    with beside((tensor,)):
        return _write(tensor, of(tensor.array).xp.eye(*tensor.shape))


def dirac_(tensor: Any, groups: int = 1) -> Any:
    """Convolution weights that pass their input on: 1 at each kernel's centre for output c = input c.

    Raises:
        ValueError: not 3 to 5 dimensions, or outputs that `groups` does not divide.
    """
    shape = tuple(tensor.shape)
    if len(shape) not in (3, 4, 5):
        raise ValueError(f"dirac_ fills convolution weights of 3 to 5 dimensions, got shape {shape}")
    if shape[0] % groups:
        raise ValueError(f"dirac_: {groups} groups do not divide {shape[0]} outputs")
    values = get("cpu").xp.zeros(shape)
    outputs = shape[0] // groups
    centre = tuple(n // 2 for n in shape[2:])
    for group in range(groups):
        for channel in range(min(outputs, shape[1])):
            values[(group * outputs + channel, channel, *centre)] = 1
    return _write(tensor, _there(tensor, values))


def _fans(tensor: Any) -> tuple[int, int]:
    """(fan_in, fan_out) of weights (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ValueError(f"fan_in and fan_out need at least two dimensions, got shape {tuple(tensor.shape)}")
    kernel = math.prod(tensor.shape[2:])
    return tensor.shape[1] * kernel, tensor.shape[0] * kernel


def xavier_uniform_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """U(-a, a) with a = gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """N(0, std^2) with std = gain * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans(tensor))), generator)


def _kaiming_std(tensor: Any, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"the mode is 'fan_in' or 'fan_out', got {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(_fans(tensor)[mode == "fan_out"])


def kaiming_uniform_(tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                     generator: Generator | None = None) -> Any:
    """U(-b, b) with b = gain * sqrt(3 / fan) (He et al., 2015); `a` is leaky_relu's slope."""
    if tensor.numel() == 0:
        return tensor
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                    generator: Generator | None = None) -> Any:
    """N(0, std^2) with std = gain / sqrt(fan) (He et al., 2015); `a` is leaky_relu's slope."""
    if tensor.numel() == 0:
        return tensor
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Any, gain: float = 1, generator: Generator | None = None) -> Any:
    """A (semi-)orthogonal matrix times `gain`; dimensions after the first count as one (Saxe et al., 2014).

    Raises:
        ValueError: fewer than two dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ needs at least two dimensions, got shape {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        return tensor
    rows = tensor.shape[0]
    columns = tensor.numel() // rows
    xp = get("cpu").xp  # on the host, so that a seed means the same on every device
    drawn = randn(rows, columns, generator=generator, dtype="float64", device="cpu").array
    q, r = xp.linalg.qr(drawn.T if rows < columns else drawn)
    q = q * xp.sign(xp.diagonal(r))  # a unique decomposition, so that q is evenly distributed
    return _write(tensor, _there(tensor, gain * (q.T if rows < columns else q).reshape(tensor.shape)))


def sparse_(tensor: Any, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Any:
    """N(0, std^2), with a share `sparsity` of each column set to 0 (Martens, 2010).

    Raises:
        ValueError: not two dimensions.
    """
    if tensor.ndim != 2:
        raise ValueError(f"sparse_ fills a matrix, got shape {tuple(tensor.shape)}")
    normal_(tensor, 0.0, std, generator)
    rows, columns = tensor.shape
    stream = (generator or default_generator()).numpy
    kept = get("cpu").xp.ones((rows, columns), "bool")
    for column in range(columns):
        kept[stream.permutation(rows)[:math.ceil(sparsity * rows)], column] = False
    return _write(tensor, of(tensor.array).xp.where(_there(tensor, kept), tensor.array, 0))


def _there(tensor: Any, host: Any) -> Any:
    """A host array's content where the tensor is."""
    backend = of(tensor.array)
    return backend.from_host(host, backend.device_of(tensor.array))


def _write(tensor: Any, values: Any) -> Any:
    """Put raw values into the tensor's memory, counted as a change."""
    with writable(tensor.array):
        tensor.array[...] = values
    tensor.bump()
    return tensor
