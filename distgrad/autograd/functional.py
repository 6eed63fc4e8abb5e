"""Derivatives of functions: vjp, jvp, jacobian, hessian, hvp, vhp, under torch.autograd.functional's names.

A function takes tensors and returns a tensor or a tuple of them. All of it is reverse mode: a product
with the Jacobian from the right is the vjp of the vjp, so no operation needs a second rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .._tensor.core import Tensor
from .._tensor.creation import zeros, zeros_like
from ..graph.backward import grad
from ..graph.guard import writable
from ..graph.modes import enable_grad
from ..ops.shape import reshape, squeeze, stack

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Tensors: TypeAlias = Tensor | tuple[Tensor, ...]
_Found: TypeAlias = Sequence[Tensor | None]

_STRATEGIES = ("reverse-mode", "forward-mode")


def vjp(func: Callable[..., Any], inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """The outputs of `func`, and v^T J: the product of v with its Jacobian at `inputs`.

    Args:
        func: takes the inputs as arguments.
        inputs: a tensor or a tuple of them.
        v: for each output a tensor of its shape; may be left out for one output with one element.
        create_graph: make both results differentiable.
        strict: raise where a result is zero because nothing depends on an input.

    Returns:
        (outputs as func returned them, one product for each input; a tuple where inputs are one).

    Raises:
        TypeError: inputs or outputs are neither a tensor nor a tuple of tensors.
        RuntimeError: v does not fit the outputs, or `strict` found an independent input or output.
    """
    with enable_grad():
        call = _Call("vjp", func, inputs, create_graph, strict)
        weights = call.vectors(v, call.outputs, "outputs")
        found = _gradients(call.outputs, call.inputs, weights, create_graph)
        products = call.filled(found, call.inputs, "the output of the function", "the Jacobian")
    return call.give(call.outputs, call.several_out), call.give(products, call.several_in)


def jvp(func: Callable[..., Any], inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """The outputs of `func`, and J v: their change when the inputs change by v.

    Args:
        v: for each input a tensor of its shape; may be left out for one input with one element.
        Others: as in `vjp`.

    Returns:
        (outputs, one product for each output; a tuple where the outputs are one).

    Raises:
        TypeError, RuntimeError: as `vjp`; here v must fit the inputs.
    """
    with enable_grad():
        call = _Call("jvp", func, inputs, create_graph, strict)
        directions = call.vectors(v, call.inputs, "inputs")
        found = _pushed(call, call.outputs, directions, "the output of the function")
        products = call.filled(found, call.outputs, "the gradient", "the Jacobian")
    return call.give(call.outputs, call.several_out), call.give(products, call.several_out)


def jacobian(func: Callable[..., Any], inputs: Tensors, create_graph: bool = False, strict: bool = False,
             vectorize: bool = False, strategy: str = "reverse-mode") -> Any:
    """The Jacobian of `func`: for output i and input j a tensor of shape (*output.shape, *input.shape).

    Args:
        inputs, create_graph, strict: as in `vjp`.
        vectorize: accepted; the rows are computed one after the other either way.
        strategy: 'reverse-mode' or 'forward-mode'; the result is the same.

    Returns:
        A tensor; a tuple over the inputs where they are one; of those a tuple over the outputs.

    Raises:
        TypeError, RuntimeError: as `vjp`; also `strict` together with `vectorize`.
    """
    if strategy not in _STRATEGIES:
        raise AssertionError(f"jacobian: strategy is one of {_STRATEGIES}, got {strategy!r}")
    if strict and vectorize:
        raise RuntimeError("jacobian: strict looks at each row and cannot be combined with vectorize=True")
    with enable_grad():
        call = _Call("jacobian", func, inputs, create_graph, strict)
        blocks = [call.give(_rows(call, i, y), call.several_in) for i, y in enumerate(call.outputs)]
    return tuple(blocks) if call.several_out else blocks[0]


def hessian(func: Callable[..., Any], inputs: Tensors, create_graph: bool = False, strict: bool = False,
            vectorize: bool = False, outer_jacobian_strategy: str = "reverse-mode") -> Any:
    """The second derivatives of a scalar function: for inputs i and j a tensor of shape (*i.shape, *j.shape).

    Args:
        func: returns one tensor with one element.
        Others: as in `jacobian`, whose `strategy` is here `outer_jacobian_strategy`.

    Returns:
        A tensor, or a tuple of tuples of them where the inputs are a tuple.

    Raises:
        TypeError, RuntimeError: as `jacobian`, or func returns something else.
    """
    several, given = _tupled(inputs, "hessian", "inputs")

    def scalar(*args: Tensor) -> Tensor:
        return squeeze(_one_element("hessian", func(*args)))

    def gradient(*args: Tensor) -> tuple[Tensor, ...]:
        first: tuple[Tensor, ...] = jacobian(scalar, args, create_graph=True)
        if strict:
            _must_vary("hessian", first)
        return first

    second = jacobian(gradient, given, create_graph, strict, vectorize, outer_jacobian_strategy)
    return second if several else second[0][0]


def vhp(func: Callable[..., Any], inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """The value of a scalar function, and v^T H: the product of v with its Hessian at `inputs`.

    Args:
        func: returns one tensor with one element.
        v: for each input a tensor of its shape; may be left out for one input with one element.
        Others: as in `vjp`.

    Returns:
        (value, one product for each input; a tuple where the inputs are one).

    Raises:
        TypeError, RuntimeError: as `vjp`, or func returns something else.
    """
    with enable_grad():
        call, directions, first = _first_order("vhp", func, inputs, v, create_graph, strict)
        found = _gradients(first, call.inputs, directions, create_graph)
        products = call.filled(found, call.inputs, "the Jacobian of the function", "the Hessian")
    return call.give(call.outputs, False), call.give(products, call.several_in)


def hvp(func: Callable[..., Any], inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
        strict: bool = False) -> tuple[Any, Any]:
    """The value of a scalar function, and H v. Arguments, results and errors are those of `vhp`.

    The Hessian is symmetric where second derivatives are continuous; `vhp` then gives the same, faster.
    """
    with enable_grad():
        call, directions, first = _first_order("hvp", func, inputs, v, create_graph, strict)
        found = _pushed(call, first, directions, "the Jacobian of the function")
        products = call.filled(found, call.inputs, "the gradient", "the Hessian")
    return call.give(call.outputs, False), call.give(products, call.several_in)


class _Call:
    """One evaluation of the function: its inputs made ready to be differentiated, and its outputs."""

    def __init__(self, name: str, func: Callable[..., Any], inputs: Any, create_graph: bool, strict: bool) -> None:
        self.name, self.create_graph, self.strict = name, create_graph, strict
        self.several_in, given = _tupled(inputs, name, "inputs")
        self.inputs = _fresh(given, create_graph, requires_grad=True)
        self.several_out, self.outputs = _tupled(func(*self.inputs), name, "outputs of the function")
        if strict:
            for i, y in enumerate(self.outputs):
                if not y.requires_grad:
                    raise RuntimeError(f"{name}: output {i} of the function depends on no input (strict mode)")

    def vectors(self, v: Any, beside: Sequence[Tensor], what: str) -> tuple[Tensor | None, ...]:
        """v checked against the tensors that it belongs to."""
        if v is None:
            if len(beside) != 1 or beside[0].numel() != 1:
                raise RuntimeError(f"{self.name}: v may be left out only when the {what} are one tensor with one "
                                   f"element, here their shapes are {[tuple(t.shape) for t in beside]}")
            return (None,)
        _, given = _tupled(v, self.name, "v")
        if [tuple(t.shape) for t in given] != [tuple(t.shape) for t in beside]:
            raise RuntimeError(f"{self.name}: v has shapes {[tuple(t.shape) for t in given]}, the {what} have "
                               f"{[tuple(t.shape) for t in beside]}")
        return _fresh(given, self.create_graph, requires_grad=False)

    def filled(self, found: _Found, beside: Sequence[Tensor], what: str, derivative: str) -> tuple[Tensor, ...]:
        """Zeros for what does not depend; in strict mode an error."""
        for i, g in enumerate(found):
            if not self.strict:
                break
            if g is None:
                raise RuntimeError(f"{self.name}: {what} is independent of number {i} of what it is differentiated "
                                   "by (strict mode)")
            if self.create_graph and not g.requires_grad:
                raise RuntimeError(f"{self.name}: {derivative} is independent of input {i} (strict mode with "
                                   "create_graph=True)")
        return tuple(zeros_like(t) if g is None else g for g, t in zip(found, beside, strict=True))

    def give(self, tensors: Sequence[Tensor], several: bool) -> Any:
        """Results as the user gets them: outside the graph unless asked for, one or a tuple."""
        out = tuple(tensors) if self.create_graph else tuple(t.detach() for t in tensors)
        return out if several else out[0]


def _tupled(value: Any, name: str, what: str) -> tuple[bool, tuple[Tensor, ...]]:
    """(whether it is a tuple, the tensors as a tuple)."""
    found = value if isinstance(value, tuple) else (value,)
    for i, t in enumerate(found):
        if not isinstance(t, Tensor):
            where = f", number {i} is" if found is value else " is"
            raise TypeError(f"{name}: the {what} must be a tensor or a tuple of tensors{where} {type(t).__name__}")
    return found is value, found


def _fresh(tensors: tuple[Tensor, ...], create_graph: bool, requires_grad: bool) -> tuple[Tensor, ...]:
    """Tensors of this evaluation alone; under create_graph they still lead to the caller's."""
    return tuple(t.view_as(t) if create_graph and t.requires_grad else t.detach().requires_grad_(requires_grad)
                 for t in tensors)


def _gradients(outputs: _Found, inputs: Sequence[Tensor], weights: Sequence[Tensor | None],
               create_graph: bool) -> list[Tensor | None]:
    """autograd.grad, kept graph, where some outputs may be absent or constant."""
    live = [(y, w) for y, w in zip(outputs, weights, strict=True) if y is not None and y.requires_grad]
    if not live:
        return [None] * len(inputs)
    return list(grad([y for y, _ in live], inputs, [w for _, w in live], retain_graph=True,
                     create_graph=create_graph, allow_unused=True))


def _pushed(call: _Call, outputs: Sequence[Tensor], directions: Sequence[Tensor | None],
            what: str) -> list[Tensor | None]:
    """J v for the Jacobian of `outputs`: the gradient u^T J is linear in u, and its own Jacobian in u is J^T."""
    u = [zeros_like(y).requires_grad_() for y in outputs]
    pulled = _gradients(outputs, call.inputs, u, create_graph=True)
    if call.strict:
        for i, g in enumerate(pulled):
            if g is None or not g.requires_grad:
                raise RuntimeError(f"{call.name}: {what} is independent of input {i} (strict mode)")
    return _gradients(pulled, u, directions, call.create_graph)


def _rows(call: _Call, number: int, y: Tensor) -> list[Tensor]:
    """The Jacobian of output `number` with respect to each input, one backward for each element."""
    if not y.numel() or not y.requires_grad:
        return [zeros((*y.shape, *x.shape), dtype=x.dtype, device=x.device) for x in call.inputs]
    rows = []
    for j in range(y.numel()):
        one_hot = zeros(y.numel(), dtype=y.dtype, device=y.device)
        with writable(one_hot.array):
            one_hot.array[j] = 1
        found = _gradients([y], call.inputs, [one_hot.view(y.shape)], call.create_graph)
        rows.append(call.filled(found, call.inputs, f"output {number} of the function", "the Jacobian"))
    return [reshape(stack(column), (*y.shape, *x.shape)) for column, x in zip(zip(*rows), call.inputs, strict=True)]


def _one_element(name: str, value: Any) -> Tensor:
    """The function's value, which must be one tensor with one element."""
    several, (y, *_) = _tupled(value, name, "outputs of the function")
    if several:
        raise RuntimeError(f"{name}: the function must return one tensor, it returned a tuple of {len(value)}")
    if y.numel() != 1:
        raise RuntimeError(f"{name}: the function must return one element, it returned shape {tuple(y.shape)}")
    return y


def _first_order(name: str, func: Callable[..., Any], inputs: Any, v: Any, create_graph: bool,
                 strict: bool) -> tuple[_Call, tuple[Tensor | None, ...], tuple[Tensor, ...]]:
    """(the call, v, the gradient of the scalar function as part of the graph)."""
    call = _Call(name, lambda *args: _one_element(name, func(*args)), inputs, create_graph, strict)
    directions = call.vectors(v, call.inputs, "inputs")
    found = _gradients(call.outputs, call.inputs, (None,), create_graph=True)
    if strict:
        _must_vary(name, found)
    return call, directions, tuple(zeros_like(x) if g is None else g for g, x in zip(found, call.inputs, strict=True))


def _must_vary(name: str, first: _Found) -> None:
    """Strict mode: every first derivative depends on the inputs."""
    for i, g in enumerate(first):
        if g is None or not g.requires_grad:
            raise RuntimeError(f"{name}: the Jacobian of the function with respect to input {i} is independent of the "
                               "inputs (strict mode)")
