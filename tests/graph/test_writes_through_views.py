"""The gradient of a base into which a view was written: zero in the region, untouched beside it."""

from __future__ import annotations

import numpy as np
import pytest

import distgrad
from distgrad.autograd import gradcheck, gradgradcheck


def test_an_infinite_gradient_of_what_was_written_stays_in_the_region() -> None:
    x = distgrad.tensor([1.0, 4.0], requires_grad=True)
    w = distgrad.tensor([0.0], requires_grad=True)
    base = x * 1
    base[:1].copy_(w)
    base.sqrt().sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0.25])
    assert np.isinf(w.grad.item())


def test_a_write_to_the_real_part_leaves_the_gradient_of_the_imaginary_one() -> None:
    z = distgrad.tensor([1 + 2j, 3 - 1j], dtype=distgrad.complex128, requires_grad=True)

    def f(z: distgrad.Tensor) -> distgrad.Tensor:
        y = z * 1
        y.real.mul_(3)
        return (y * y.conj()).real

    f(z).sum().backward()
    np.testing.assert_allclose(z.grad, [18 + 4j, 54 - 2j])
    assert gradcheck(f, (z,)) and gradgradcheck(f, (z,))


def test_a_base_in_fortran_order() -> None:
    x = distgrad.from_numpy(np.asfortranarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).requires_grad_()
    base = x * 1
    base.t().view(-1)[1:4].mul_(10)
    (base * base).sum().backward()
    np.testing.assert_array_equal(x.grad, [[2, 400, 6], [800, 1000, 12]])


@pytest.mark.parametrize("write", [lambda y: y.zero_(), lambda y: y.fill_(3.0), lambda y: y.copy_(y.detach())])
def test_what_was_overwritten_gets_zeros(write) -> None:
    x = distgrad.ones(2, requires_grad=True)
    y = x * 2
    write(y)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0])


def test_a_retained_gradient_is_that_of_the_new_value() -> None:
    x = distgrad.ones(2, requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    (y * 5).sum().backward()
    np.testing.assert_array_equal(y.grad, [5, 5])
