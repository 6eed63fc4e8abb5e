"""The same function with torch and with distgrad: a case takes `lib` and returns what is to be equal.

A result may hold tensors (compared with dtype, shape and values), numbers, strings, containers of them.
Exceptions are compared by their type, which `raised` names; messages are each library's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import distgrad
import distgrad.autograd
from distgrad.graph.base import TensorBase

from .deliberate import DELIBERATE

torch = pytest.importorskip("torch", reason="parity is checked where torch is installed (launch/test --parity)")

__all__ = ["Table", "check", "derivatives", "differences", "exp_backward", "exp_forward", "kind", "leaf",
           "log", "make", "plain", "raised", "run", "torch", "warned"]

Case = Callable[[Any], Any]
_TOLERANCE = {"float16": 4e-3, "float32": 2e-5, "complex64": 4e-5, "float64": 1e-9, "complex128": 1e-9}


class Table:
    """The cases of one file, by name."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def __call__(self, function: Case) -> Case:
        """Decorator: one case."""
        self.add(function.__name__, function)
        return function

    def add(self, name: str, function: Case) -> None:
        """A case made in a loop."""
        assert name not in self.cases, f"two cases are named {name}"
        self.cases[name] = function

    def __iter__(self) -> Iterator[Any]:
        return iter([pytest.param(name, function, id=name) for name, function in self.cases.items()])


def check(name: str, case: Case, *, given: bool = False) -> None:
    """Run a case with both libraries; equal, or different where `deliberate.py` says so.

    Args:
        given: the case returns comparable results already.
    """
    ask = (lambda case, lib: case(lib)) if given else run
    found = differences(ask(case, torch), ask(case, distgrad))
    if name in DELIBERATE:
        assert found, f"{name} is listed as a deliberate difference ({DELIBERATE[name]}), but both agree"
        return
    assert not found, f"{name} differs (torch | distgrad):\n" + "\n".join(found)


def run(case: Case, lib: Any) -> Any:
    """The case's result in comparable form; what it raises counts as its result."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        grad_mode = torch.is_grad_enabled()
        try:
            return plain(case(lib))
        except Exception as error:
            return f"raised {kind(error)}: {str(error)[:300]}" if lib is None else Raised(error)
        finally:
            torch.set_grad_enabled(grad_mode)


class Raised:
    """An exception that a case let through."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"raised {kind(self.error)}({str(self.error)[:200]!r})"


def kind(error: BaseException) -> str:
    """The name of the nearest built-in exception type: what a portable `except` clause would name."""
    found = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "builtins")
    return "RuntimeError" if found == "NotImplementedError" else found  # torch's refusals of a dtype; a subclass


def raised(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The type of what a call raises, or 'nothing'."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return kind(error)
    return "nothing"


def warned(function: Callable[[], Any]) -> list[str]:
    """The categories of the warnings of a call."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.set_warn_always(True)  # some of torch's come only once a process
        try:
            function()
        finally:
            torch.set_warn_always(False)
    return [w.category.__name__ for w in seen]


def leaf(lib: Any, values: Any, dtype: str = "float64") -> Any:
    """A tensor that requires grad."""
    return lib.tensor(values, dtype=getattr(lib, dtype), requires_grad=True)


def derivatives(lib, function, *values, dtype="float64", second=True):
    """Value, gradients of a weighted sum, and gradients of the weighted sum of those."""
    inputs = [leaf(lib, v, dtype) for v in values]
    y = function(lib, *inputs)
    found = [y]
    if not y.requires_grad:
        return [*found, "no gradient"]
    n = max(y.numel(), 1)
    weight = (lib.arange(y.numel()).to(y.dtype) / n + 0.5).reshape(tuple(y.shape))
    grads = lib.autograd.grad(y, inputs, weight, create_graph=True, allow_unused=True)
    found.append(grads)
    live = [g for g in grads if g is not None and g.requires_grad]
    if second:
        parts = [g.real + 2 * g.imag if g.is_complex() else g for g in live]
        found.append(lib.autograd.grad([g.sum() for g in parts], inputs, materialize_grads=True) if live else
                     [lib.zeros_like(x) for x in inputs])
    return found


def plain(value: Any) -> Any:
    """A result with its tensors as (dtype, numpy array)."""
    if isinstance(value, torch.Tensor):
        if value.dtype is torch.complex32:  # numpy has none: halves become complex64
            value = value.to(torch.complex64)
        host = value.detach().resolve_conj().resolve_neg().numpy(force=True)
        return str(value.dtype).removeprefix("torch."), host.copy()
    if isinstance(value, TensorBase):
        return str(value.dtype), np.array(value.array)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, dict):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(x) for x in value]
    return value


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two results differ, as text."""
    at = path or "result"
    if isinstance(a, Raised) and isinstance(b, Raised):
        return [] if kind(a.error) == kind(b.error) else [f"{at}: {a} | {b}"]
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == 2 and isinstance(a[1], np.ndarray):
        return _arrays(a, b, at)
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b}, key=str)
        return [text for key in keys for text in differences(a.get(key, "missing"), b.get(key, "missing"),
                                                             f"{path}[{key!r}]")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [text for i, (x, y) in enumerate(zip(a, b)) for text in differences(x, y, f"{path}[{i}]")]
    if type(a) is type(b) is float or (type(a) is type(b) is complex):
        return [] if np.isclose(a, b, 1e-5, 1e-8, equal_nan=True) else [f"{at}: {a!r} | {b!r}"]
    return [] if type(a) is type(b) and a == b else [f"{at}: {_short(a)} | {_short(b)}"]


def _arrays(a: Any, b: Any, at: str) -> list[str]:
    if a[0] != b[0] or a[1].shape != b[1].shape:
        return [f"{at}: {a[0]} {a[1].shape} | {b[0]} {b[1].shape}"]
    tolerance = _TOLERANCE.get(a[0], 0)
    finite = a[1][np.isfinite(a[1])] if a[0] != "bool" else a[1]
    scale = float(np.abs(finite).max()) if finite.size and tolerance else 0.0
    # Where terms near 1 cancel in float32, some of their last bits stay, which differ by the order of sums.
    least = 0.1 if a[0] == "float32" else 1e-2
    if np.allclose(a[1], b[1], tolerance, tolerance * max(scale, least), equal_nan=True):
        return []
    return [f"{at}: {_short(a[1])} | {_short(b[1])}"]


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 400 else text[:400] + "..."


# -- what cases share

def log(into: list[Any], name: str, result: Any = None) -> Any:
    """A hook that notes its call and the values of its arguments."""
    def hook(*args: Any) -> Any:
        into.append((name, [values_of(a) for a in args]))
        return result
    return hook


def values_of(a: Any) -> Any:
    if isinstance(a, (tuple, list)):
        return [values_of(x) for x in a]
    return a.tolist() if hasattr(a, "tolist") else a


def make(lib, forward, backward, setup_context=None, decorate=lambda f: f):
    """A Function of these methods."""
    body = {"forward": staticmethod(forward), "backward": staticmethod(decorate(backward))}
    if setup_context is not None:
        body["setup_context"] = staticmethod(setup_context)
    return type("Made", (lib.autograd.Function,), body)


def exp_forward(ctx, x):
    y = x.exp()
    ctx.save_for_backward(y)
    return y


def exp_backward(ctx, g):
    (y,) = ctx.saved_tensors
    return g * y
