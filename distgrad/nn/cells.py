"""One step of a recurrent network at a time: LSTMCell, GRUCell, RNNCell.

A step is the recurrent op over a sequence of one, so a cell and its network agree.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .._tensor.creation import empty, zeros
from ..ops import recurrent
from . import init
from .module import Module
from .parameter import Parameter

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """weight_ih (gates * H, in), weight_hh (gates * H, H), bias_ih, bias_hh (gates * H,), from U(±1 / sqrt(H))."""

    gates: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = self.gates * hidden_size
        self.weight_ih = Parameter(empty(rows, input_size, device=device, dtype=dtype))
        self.weight_hh = Parameter(empty(rows, hidden_size, device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases anew."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def _step(self, op: Any, input: Any, states: Any, count: int) -> tuple[Any, ...]:
        """One step from `states` (zeros when None): the new states, without the dimensions that were added."""
        if input.ndim not in (1, 2):
            raise ValueError(f"{self._get_name()}: the input is (batch, features) or (features,), got shape "
                             f"{tuple(input.shape)}")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"{self._get_name()}: the input has {input.shape[-1]} features, input_size is "
                               f"{self.input_size}")
        shape = (*input.shape[:-1], self.hidden_size)
        if states is None:
            states = [zeros(shape, dtype=input.dtype, device=input.device)] * count
        for state in states:
            if tuple(state.shape) != shape:
                raise RuntimeError(f"{self._get_name()}: a state has shape {tuple(state.shape)}, wanted {shape}")
        lead = (1,) * (3 - input.ndim)
        x, *states = (t.reshape(*lead, *t.shape) for t in (input, *states))
        weights = [w for w in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh) if w is not None]
        _, last = op(x, states[0] if count == 1 else tuple(states), weights, bias=self.bias)
        return tuple([s.reshape(shape) for s in (last if count > 1 else (last,))])

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}{'' if self.bias else ', bias=False'}"


class LSTMCell(RNNCellBase):
    """One step of an LSTM; gates in the order i, f, g, o."""

    gates = 4

    def forward(self, input: Any, hx: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """input (batch, in) or (in,), states (h, c) like it with H features -> the new (h, c)."""
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise RuntimeError("LSTMCell: the state is a pair (h, c)")
        h, c = self._step(recurrent.lstm, input, hx, 2)
        return h, c


class GRUCell(RNNCellBase):
    """One step of a GRU; gates in the order r, z, n."""

    gates = 3

    def forward(self, input: Any, hx: Any = None) -> Any:
        """input (batch, in) or (in,), state h like it with H features -> the new h."""
        return self._step(recurrent.gru, input, None if hx is None else (hx,), 1)[0]


class RNNCell(RNNCellBase):
    """tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it."""

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
                 device: Any = None, dtype: Any = None) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Any = None) -> Any:
        """input (batch, in) or (in,), state h like it with H features -> the new h."""
        op = recurrent.rnn_tanh if self.nonlinearity == "tanh" else recurrent.rnn_relu
        return self._step(op, input, None if hx is None else (hx,), 1)[0]

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")
