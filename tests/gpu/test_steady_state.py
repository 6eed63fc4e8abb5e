"""A training step in its steady state: nothing waits for the device, and a recurrent step is a product and a kernel."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest

import distgrad as dg
from distgrad import nn
from distgrad.backend import strict
from distgrad.backend.strict import array, namespace
from distgrad.nn import functional as F
from tests.gpu.compare import gpu, needs_a_device, there

pytestmark = needs_a_device
WAITING = ("argwhere", "bincount", "flatnonzero", "nonzero", "unique")  # on a GPU their results' sizes are read


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers, self.head = getattr(nn, kind)(6, 5, num_layers=2, bidirectional=True), nn.Linear(10, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(x)[0]).flatten(0, 1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(9, 8), nn.Parameter(dg.zeros(6, 8))
        self.norm, self.qkv, self.head = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 4)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Any) -> Any:
        x = self.table(x) + self.place
        q, k, v = (part.reshape(2, 6, 2, 4).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 6, 8)
        return self.head(self.drop(F.gelu(y))).flatten(0, 1)


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                         nn.Conv2d(4, 4, 1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 2 * 2, 4))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4)), (5, 6), 5),
    "lstm": (lambda: Recurrent("LSTM"), (3, 2, 6), 6), "gru": (lambda: Recurrent("GRU"), (3, 2, 6), 6),
    "rnn": (lambda: Recurrent("RNN"), (3, 2, 6), 6), "transformer": (Block, (2, 6), 12),
    "convolutional": (convolutional, (2, 1, 8, 8), 2),
}


@contextmanager
def nothing_waits(monkeypatch: pytest.MonkeyPatch, device: str) -> Iterator[None]:
    """What would read from the device fails."""
    if device == "cuda":
        import cupyx

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it may go, and that it does not find everything
            allowed = getattr(cupyx, "allow_synchronize", None)
            with nullcontext() if allowed is None else allowed(False):
                yield
        return

    def refused(*args: Any, **options: Any) -> Any:
        raise AssertionError("this waits for the device")

    with monkeypatch.context() as patch:
        for name in WAITING:
            patch.setattr(sys.modules["cupy"], name, refused, raising=False)
            patch.setattr(gpu().xp, name, refused, raising=False)
        strict.transfers.reset()
        yield
    assert strict.transfers == array.Transfers(), strict.transfers


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward_wait_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    build, shape, samples = MODELS[name]
    model, stream = build().to("cuda"), np.random.default_rng(0)
    x = stream.integers(0, 9, shape) if name == "transformer" else stream.standard_normal(shape).astype("float32")
    x, target = dg.tensor(x, device="cuda"), dg.tensor(stream.integers(0, 4, samples), device="cuda")

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(x), target).backward()

    step()
    with nothing_waits(monkeypatch, request.config.getoption("--device")):
        step()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, request: Any) -> Counter[str]:
    """What is asked of the stand-in, by name; views excepted."""
    if request.config.getoption("--device") != "standin":
        pytest.skip("counts what is asked of the stand-in")
    gpu()
    found: Counter[str] = Counter()

    def counted(place: Any, name: str, called: str | None = None) -> None:
        real = getattr(place, name)

        def count(*args: Any, **options: Any) -> Any:
            found[called or str(getattr(args[0], "__name__", name))] += 1
            return real(*args, **options)

        monkeypatch.setattr(place, name, count)

    from tests.gpu import standin

    counted(standin._Kernel, "__call__", "kernel")
    counted(sys.modules["cupy_backends.cuda.libs.cublas"], "gemmEx", "product")
    counted(sys.modules["cupy"], "empty", "empty")
    counted(array, "call")
    counted(namespace, "call")
    return found


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_a_recurrent_step_is_one_product_and_one_kernel(kind: str, calls: Counter[str]) -> None:
    rng, gates = np.random.default_rng(0), {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    w_ih, w_hh, bias = (there(rng.standard_normal(s).astype("float32")) for s in
                        ((gates * 5, 6), (gates * 5, 5), (gates * 5,)))
    kernels = gpu().kernels

    def layer(steps: int) -> Counter[str]:
        x, state = there(rng.standard_normal((steps, 2, 6)).astype("float32")), there(np.zeros((2, 5), "float32"))
        gy = there(rng.standard_normal((steps, 2, 5)).astype("float32"))
        calls.clear()
        if kind == "lstm":
            y, _, _, *kept = kernels.lstm_layer(x, state, state, w_ih, w_hh, bias, bias, None, False)
            kernels.lstm_layer_backward(gy, None, None, x, state, w_ih, w_hh, None, y, *kept, (True,) * 5, False)
        elif kind == "gru":
            y, _, *kept = kernels.gru_layer(x, state, w_ih, w_hh, bias, bias, False)
            kernels.gru_layer_backward(gy, None, x, state, w_ih, w_hh, y, *kept, (True,) * 5, False)
        else:
            y, _ = kernels.rnn_layer(x, state, w_ih, w_hh, bias, bias, "tanh", False)
            kernels.rnn_layer_backward(gy, None, x, state, w_ih, w_hh, y, (True,) * 5, "tanh", False)
        return calls.copy()

    more = layer(9)
    more.subtract(layer(5))
    assert +more == {"kernel": 8, "product": 8}  # of four steps, forward and backward


def test_attention_makes_one_pass_over_the_scores_each_way(calls: Counter[str]) -> None:
    q, k, v, g = (there(np.random.default_rng(i).standard_normal((2, 3, 7, 4)).astype("float32")) for i in range(4))
    kernels = gpu().kernels
    y, *kept = kernels.attention(q, k, v, None, True, 0.5)
    calls.clear()
    kernels.attention(q, k, v, None, True, 0.5)
    assert calls["kernel"] == 2  # over the scores, and over the rows of the result
    calls.clear()
    kernels.attention_backward(g, q, k, v, None, *kept, True, 0.5, False)
    assert calls["kernel"] == 1 and y.shape == (2, 3, 7, 4)
    assert set(calls) <= {"kernel", "product", "empty", "<lambda>", "ascontiguousarray", "gemmEx"}, calls
