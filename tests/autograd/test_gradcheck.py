"""gradcheck finds wrong gradients, in all its modes; and right ones pass."""

from __future__ import annotations

from typing import Any

import pytest

import distgrad
from distgrad import Tensor
from distgrad.autograd import Function, GradcheckError, gradcheck, gradgradcheck


class Wrong(Function):
    """x ** 2 whose gradient is `slope` * x."""

    slope = 2.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * x * Wrong.slope


class WrongTwice(Wrong):
    """The gradient is right, its derivative is cut off."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * x.detach() * 2


def x64(*shape: int, dtype: Any = distgrad.float64) -> Tensor:
    distgrad.manual_seed(5)
    return distgrad.randn(*shape, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("fast_mode", [False, True])
def test_right_and_wrong(fast_mode: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = x64(3, 2)
    assert gradcheck(Wrong.apply, x, fast_mode=fast_mode)
    monkeypatch.setattr(Wrong, "slope", 2.1)
    with pytest.raises(GradcheckError, match="analytically"):
        gradcheck(Wrong.apply, x, fast_mode=fast_mode)
    assert gradcheck(Wrong.apply, x, fast_mode=fast_mode, raise_exception=False) is False


@pytest.mark.parametrize("fast_mode", [False, True])
def test_second_derivatives(fast_mode: bool) -> None:
    x = x64(3)
    assert gradgradcheck(Wrong.apply, x, fast_mode=fast_mode)
    assert gradcheck(WrongTwice.apply, x, fast_mode=fast_mode)
    with pytest.raises(GradcheckError):
        gradgradcheck(WrongTwice.apply, x, fast_mode=fast_mode)


@pytest.mark.parametrize("function", [lambda z: z * z.conj(), lambda z: z.abs(), lambda z: (z * 2j).exp(),
                                      lambda z: z.real * z.imag, lambda z: (z @ z.mT).sum()])
@pytest.mark.parametrize("fast_mode", [False, True])
def test_complex(function: Any, fast_mode: bool) -> None:
    assert gradcheck(function, x64(2, 2, dtype=distgrad.complex128), fast_mode=fast_mode)


@pytest.mark.parametrize("function", [
    lambda x: distgrad.tanh(x * x).sum(0), lambda x: distgrad.softmax(x, 1), lambda x: x.reshape(-1)[1:].cumsum(0),
    lambda x: distgrad.logsumexp(x, 0), lambda x: distgrad.cat([x, x * x], 1).std(1), lambda x: x @ x.T,
    lambda x: Wrong.apply(x), lambda x: (x * 1).mul_(x).exp_(),
])
def test_forward_mode(function: Any) -> None:
    assert gradcheck(function, x64(2, 3), check_forward_ad=True)


def test_forward_mode_of_an_lstm() -> None:
    from distgrad import nn

    lstm = nn.LSTM(2, 3).double()
    assert gradcheck(lambda x: lstm(x)[0], x64(3, 1, 2), check_forward_ad=True)


def test_several_outputs_and_undefined_cotangents() -> None:
    assert gradcheck(lambda x: (x * x, x.exp().sum(), x.argmax()), x64(4))

    class NeedsBoth(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            ctx.set_materialize_grads(False)
            return x * 1, x * 2

        @staticmethod
        def backward(ctx: Any, a: Any, b: Any) -> Any:
            if a is None:
                return 2 * b
            return a if b is None else (a + 2 * b) * 1.5  # wrong only where both are there

    with pytest.raises(GradcheckError, match="missing cotangent"):
        gradcheck(NeedsBoth.apply, x64(2))


def test_a_backward_that_differs_from_time_to_time() -> None:
    class Noisy(Wrong):
        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return g * x * 2 + distgrad.randn(1, dtype=distgrad.float64).item() * 1e-9

    with pytest.raises(GradcheckError, match="two backwards"):
        gradcheck(Noisy.apply, x64(2))
    assert gradcheck(Noisy.apply, x64(2), nondet_tol=1e-6)


def test_inputs_that_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="no input"):
        gradcheck(lambda x: x, distgrad.ones(2))
    with pytest.raises(ValueError, match="no output"):
        gradcheck(lambda x: x.detach(), x64(2))
    overlapping = distgrad.ones(1, dtype=distgrad.float64).expand(3).requires_grad_()
    with pytest.raises(RuntimeError, match="overlap"):
        gradcheck(lambda x: x * 2, overlapping)
