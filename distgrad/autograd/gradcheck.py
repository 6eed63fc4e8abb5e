"""Gradients against finite differences: the check that every op passes.

The numerical Jacobian is taken by central differences in the inputs' memory, one element at a time,
the analytical one row by row with `autograd.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._tensor.core import Tensor
from .._tensor.creation import as_tensor, from_numpy, zeros_like
from ..backend.random import Generator
from ..graph.backward import grad
from ..graph.modes import enable_grad, no_grad
from .probes import GradcheckError, check_projections, check_tangents, differentiable, host, random_like

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]


def gradcheck(func: Callable[..., Any], inputs: Tensor | Sequence[Any], *, eps: float = 1e-6, atol: float = 1e-5,
              rtol: float = 1e-3, raise_exception: bool = True, nondet_tol: float = 0.0,
              check_undefined_grad: bool = True, check_forward_ad: bool = False, fast_mode: bool = False) -> bool:
    """Compare `func`'s gradients with central differences of step eps.

    Args:
        func: takes `inputs`, returns a tensor or a tuple of them.
        inputs: those that require grad are varied; they should be float64.
        atol, rtol: a pair agrees when |a - n| <= atol + rtol * |n|.
        raise_exception: False returns False instead of raising.
        nondet_tol: how far two backwards of the same graph may differ.
        check_undefined_grad: also check that a missing cotangent counts as zeros.
        check_forward_ad: also compare forward mode, along one random direction an input.
        fast_mode: compare one random projection of each Jacobian instead of every element.

    Raises:
        GradcheckError: a pair does not agree; names output, input and the worst element.
        ValueError: no input requires grad.
    """
    try:
        given = _listed(inputs)
        live = _live(given)
        if fast_mode:
            check_projections(func, given, live, eps, atol, rtol)
        else:
            _check(func, given, live, eps, atol, rtol, nondet_tol)
        if check_undefined_grad:
            _check_undefined(func, given, live)
        if check_forward_ad:
            check_tangents(func, given, live, eps, atol, rtol)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(func: Callable[..., Any], inputs: Tensor | Sequence[Any],
                  grad_outputs: Tensor | Sequence[Any] | None = None, *, eps: float = 1e-6, atol: float = 1e-5,
                  rtol: float = 1e-3, raise_exception: bool = True, nondet_tol: float = 0.0,
                  check_undefined_grad: bool = True, fast_mode: bool = False) -> bool:
    """`gradcheck` of the gradients of `func`, in its inputs and in the cotangents.

    Args:
        grad_outputs: cotangents; drawn at random when not given.
        Others: as in `gradcheck`.
    """
    given = _listed(inputs)
    outputs = differentiable(func(*given))
    if grad_outputs is None:
        stream = Generator(0x5EED)
        cotangents = [as_tensor(random_like(stream, y)).to(y.device).requires_grad_() for y in outputs]
    else:
        cotangents = _listed(grad_outputs)
    live = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad]

    def gradients(*args: Any) -> Any:
        xs = [x.view_as(x) if i in live else x for i, x in enumerate(args[:len(given)])]
        with enable_grad():
            ys = differentiable(func(*xs))
            found = grad(ys, [xs[i] for i in live], list(args[len(given):]), create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None and g.requires_grad)

    if not gradients(*given, *cotangents):
        return True  # the gradient is constant: nothing depends on anything
    return gradcheck(gradients, [*given, *cotangents], eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception,
                     nondet_tol=nondet_tol, check_undefined_grad=check_undefined_grad, fast_mode=fast_mode)


def _listed(inputs: Any) -> list[Any]:
    return [inputs] if isinstance(inputs, Tensor) else list(inputs)


def _live(inputs: list[Any]) -> list[int]:
    """Positions of the inputs that are varied."""
    live = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not live:
        raise ValueError("gradcheck: no input requires grad")
    for i in live:
        x = inputs[i]
        if 0 in x.array.strides and x.numel() > 1:
            raise RuntimeError(f"gradcheck: elements of input {i} overlap in memory and cannot be varied one by one")
    return live


def _check(func: Callable[..., Any], inputs: list[Any], live: list[int], eps: float, atol: float, rtol: float,
           nondet_tol: float) -> None:
    outputs = differentiable(func(*inputs))
    if not outputs:
        raise ValueError("gradcheck: no output requires grad")
    for i in live:
        numerical = _numerical(func, inputs, i, eps)
        for number, output in enumerate(outputs):
            analytical = _analytical(output, inputs[i])
            if nondet_tol >= 0 and not np.allclose(analytical, _analytical(output, inputs[i]), 0, nondet_tol,
                                                   equal_nan=True):
                raise GradcheckError(f"two backwards of output {number} gave input {i} different gradients")
            _compare(analytical, numerical[number], atol, rtol, number, i)


def _check_undefined(func: Callable[..., Any], inputs: list[Any], live: list[int]) -> None:
    """Where one of several outputs gets no cotangent, the gradient is that with zeros for it."""
    outputs = differentiable(func(*inputs))
    if len(outputs) < 2:
        return
    targets = [inputs[i] for i in live]
    for number, output in enumerate(outputs):
        ones = [as_tensor(np.ones(output.shape, output.dtype))]
        alone = grad([output], targets, ones, retain_graph=True, allow_unused=True)
        zeros = [ones[0] if j == number else zeros_like(y) for j, y in enumerate(outputs)]
        full = grad(outputs, targets, zeros, retain_graph=True, allow_unused=True)
        for i, a, b in zip(live, alone, full, strict=True):
            a, b = (0.0 if g is None else host(g) for g in (a, b))
            if not np.allclose(a, b, equal_nan=True):
                raise GradcheckError(f"input {i}: a missing cotangent does not count as zeros beside output {number}")


def _numerical(func: Callable[..., Any], inputs: list[Any], i: int, eps: float) -> list[np.ndarray]:
    """For each output the Jacobian (inputs, outputs) by central differences."""
    x = inputs[i]
    start = host(x).copy()
    rows: list[list[np.ndarray]] = []
    directions = (1.0, 1.0j) if x.dtype.kind == "c" else (1.0,)
    for position in np.ndindex(start.shape):
        columns = []
        for direction in directions:
            step = eps * direction
            values = []
            for shift in (step, -step):
                moved = start.copy()
                moved[position] += shift
                replaced = as_tensor(moved).to(x.device).requires_grad_()
                args = [*inputs[:i], replaced, *inputs[i + 1:]]
                values.append([host(y.detach()).astype(np.result_type(y.dtype, np.float64)).ravel()
                               for y in differentiable(func(*args))])
            columns.append([(plus - minus) / (2 * eps) for plus, minus in zip(*values, strict=True)])
        rows.append(columns[0] if len(columns) == 1 else [_wirtinger(a, b) for a, b in zip(*columns, strict=True)])
    if not rows:
        return [np.zeros((0, y.numel())) for y in differentiable(func(*inputs))]
    return [np.stack([row[number] for row in rows]) for number in range(len(rows[0]))]


def _wirtinger(by_real: np.ndarray, by_imaginary: np.ndarray) -> np.ndarray:
    """(dL/dRe, dL/dIm) of real outputs as torch's gradient; for complex ones both parts side by side."""
    if by_real.dtype.kind == "c":
        return np.stack([by_real.real + 1j * by_imaginary.real, by_real.imag + 1j * by_imaginary.imag], -1).ravel()
    return by_real + 1j * by_imaginary


def _analytical(output: Tensor, x: Tensor) -> np.ndarray:
    """The Jacobian (inputs, outputs), one backward an element of the output."""
    columns = []
    seeds = (1.0, 1.0j) if output.dtype.kind == "c" else (1.0,)
    for position in np.ndindex(output.shape):
        for seed in seeds:
            cotangent = np.zeros(output.shape, output.dtype)
            cotangent[position] = seed
            with no_grad():
                (g,) = grad(output, x, from_numpy(cotangent).to(output.device), retain_graph=True, allow_unused=True)
            columns.append(np.zeros(x.numel()) if g is None else host(g).ravel())
    if not columns:
        return np.zeros((x.numel(), 0))
    return np.stack(columns, 1)


def _compare(analytical: np.ndarray, numerical: np.ndarray, atol: float, rtol: float, output: int, i: int) -> None:
    if numerical.dtype.kind == "c" and analytical.shape[1] != numerical.shape[1]:
        # complex output, real input: the parts of the output side by side, as the analytical columns are
        numerical = np.stack([numerical.real, numerical.imag], -1).reshape(numerical.shape[0], -1)
    close = np.isclose(analytical, numerical, rtol, atol, equal_nan=True)
    if close.all():
        return
    worst = np.unravel_index(np.argmax(np.where(close, 0, np.nan_to_num(np.abs(analytical - numerical), nan=np.inf))),
                             close.shape)
    raise GradcheckError(
        f"output {output}, input {i}: the gradient of element {worst[1]} by element {worst[0]} is "
        f"{analytical[worst]:.8g} analytically and {numerical[worst]:.8g} numerically\n"
        f"numerical:\n{numerical}\nanalytical:\n{analytical}")
