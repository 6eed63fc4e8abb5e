"""Recurrent networks over whole sequences: RNN, LSTM, GRU, with torch's parameter names and shapes.

The sequences run in one fused op for each layer and direction (`ops.recurrent`); single steps are in cells.py.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

from .._tensor.creation import empty, zeros
from ..ops import recurrent
from . import init
from .module import Module
from .parameter import Parameter

__all__ = ["GRU", "LSTM", "RNN", "RNNBase"]


class RNNBase(Module):
    """What the three kinds share: sizes, parameters, shapes of inputs and states.

    Args:
        input_size: features of the input at each step.
        hidden_size: features of the state, H.
        num_layers: layers on top of one another.
        bias: whether the gates have biases.
        batch_first: input and output are (batch, time, features); states are not affected.
        dropout: on the outputs of all layers but the last, in training.
        bidirectional: a second network runs backwards, and outputs stand side by side.

    Parameters, for layer k, with `_reverse` appended for the second direction: weight_ih_l{k}
    (gates * H, in), weight_hh_l{k} (gates * H, H), bias_ih_l{k} and bias_hh_l{k} (gates * H,), all from
    U(-1 / sqrt(H), 1 / sqrt(H)).
    """

    gates: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
                 device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        _check_settings(input_size, hidden_size, num_layers, dropout, proj_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._directions = 2 if bidirectional else 1
        self._names: list[str] = []  # of all weights, in the order in which the op takes them
        out = proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * self._directions
            for suffix in ("", "_reverse")[:self._directions]:
                shapes = {"weight_ih": (self.gates * hidden_size, width), "weight_hh": (self.gates * hidden_size, out)}
                if bias:
                    shapes |= {"bias_ih": (self.gates * hidden_size,), "bias_hh": (self.gates * hidden_size,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for kind, shape in shapes.items():
                    name = f"{kind}_l{layer}{suffix}"
                    setattr(self, name, Parameter(empty(shape, device=device, dtype=dtype)))
                    self._names.append(name)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights and biases anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing to do: no kernel here wants the weights side by side in memory."""

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters of each layer and direction."""
        groups = self.num_layers * self._directions
        size = len(self._names) // groups
        return [[getattr(self, n) for n in self._names[k * size:(k + 1) * size]] for k in range(groups)]

    def _run(self, op: Any, input: Any, states: Any, **settings: Any) -> tuple[Any, Any]:
        """Call the op; without a batch dimension, with one that is added and taken out again."""
        if input.ndim not in (2, 3):
            raise ValueError(f"{self._get_name()}: the input has 3 dimensions, or 2 without a batch, got shape "
                             f"{tuple(input.shape)}")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"{self._get_name()}: the input has {input.shape[-1]} features at each step (shape "
                               f"{tuple(input.shape)}), input_size is {self.input_size}")
        batched = input.ndim == 3
        axis = 0 if self.batch_first else 1
        if not batched:
            input = input.unsqueeze(axis)
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        rows, batch = self.num_layers * self._directions, input.shape[axis]
        if states is None:
            states = [zeros(rows, batch, sizes[i], dtype=input.dtype, device=input.device)
                      for i in range(self._state_count)]
        else:
            states = [self._state(s, what, (rows, batch, size), batched)
                      for s, what, size in zip(states, ("h0", "c0"), sizes, strict=False)]
        own = self.__dict__
        output, last = op(input, states[0] if len(states) == 1 else tuple(states), [own[n] for n in self._names],
                          num_layers=self.num_layers, bidirectional=self.bidirectional, batch_first=self.batch_first,
                          dropout=self.dropout, training=self.training, bias=self.bias, **settings)
        if batched:
            return output, last
        return output.squeeze(axis), tuple(s.squeeze(1) for s in last) if isinstance(last, tuple) else last.squeeze(1)

    _state_count: ClassVar[int] = 1

    def _state(self, state: Any, what: str, wanted: tuple[int, ...], batched: bool) -> Any:
        """A given state with a batch dimension, checked."""
        expected = wanted if batched else (wanted[0], wanted[2])
        if tuple(state.shape) != expected:
            raise RuntimeError(f"{self._get_name()}: {what} has shape {tuple(state.shape)}, wanted {expected} (layers "
                               f"* directions, {'batch, ' if batched else ''}size)")
        return state if batched else state.unsqueeze(1)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                 "bidirectional": False}
        parts += [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join(parts)


def _check_settings(input_size: int, hidden_size: int, num_layers: int, dropout: float, proj_size: int) -> None:
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        raise ValueError(f"dropout is a probability in [0, 1], got {dropout!r}")
    if not isinstance(hidden_size, int):
        raise TypeError(f"hidden_size is an int, got {type(hidden_size).__name__}")
    if input_size < 0 or hidden_size <= 0 or num_layers <= 0:
        raise ValueError(f"sizes and layers are positive, got input_size={input_size}, hidden_size={hidden_size}, "
                         f"num_layers={num_layers}")
    if not 0 <= proj_size < hidden_size:
        raise ValueError(f"proj_size is smaller than hidden_size ({hidden_size}) and not negative, got {proj_size}")
    if dropout and num_layers == 1:
        warnings.warn(f"dropout={dropout} with one layer does nothing: it acts between layers", UserWarning,
                      stacklevel=4)


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997); gates in the order i, f, g, o.

    i, f, o = sigmoid(...), g = tanh(...);  c = f * c + i * g;  h = o * tanh(c). With `proj_size`, h is
    projected by weight_hr_l{k} (proj_size, H). Other arguments as in RNNBase.
    """

    gates = 4
    _state_count = 2

    def forward(self, input: Any, hx: tuple[Any, Any] | None = None) -> tuple[Any, tuple[Any, Any]]:
        """Run over a sequence.

        Args:
            input: (time, batch, input_size); (batch, time, input_size) with batch_first; or (time, input_size).
            hx: (h0, c0), of (layers * directions, batch, proj_size or H) and (..., H); zeros unless given.

        Returns:
            (outputs of the last layer at each step, (h_n, c_n)).
        """
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise RuntimeError("LSTM: the state is a pair (h0, c0)")
        return self._run(recurrent.lstm, input, hx, proj_size=self.proj_size)


class GRU(RNNBase):
    """Gated recurrent units (Cho et al., 2014); gates in the order r, z, n.

    n = tanh(W_in x + b_in + r * (W_hn h + b_hn));  h = (1 - z) * n + z * h. Arguments as in RNNBase.
    """

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device,
                         dtype)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Run over a sequence; shapes as for LSTM, with one state.

        Returns:
            (outputs of the last layer at each step, h_n).
        """
        return self._run(recurrent.gru, input, None if hx is None else (hx,))


class RNN(RNNBase):
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of it. Other arguments as in RNNBase."""

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
                 bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
                 device: Any = None, dtype: Any = None) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device,
                         dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Run over a sequence; shapes as for LSTM, with one state.

        Returns:
            (outputs of the last layer at each step, h_n).
        """
        op = recurrent.rnn_tanh if self.nonlinearity == "tanh" else recurrent.rnn_relu
        return self._run(op, input, None if hx is None else (hx,))
