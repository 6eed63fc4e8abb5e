"""Making tensors: from data, filled, in sequence, random.

Random numbers come from the context's stream (`manual_seed`) on the host, so a seed means the same
numbers on every device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Device, default_place, device_of, get, of
from ..backend.dtypes import category, dtype_of, get_default_dtype
from ..backend.random import Generator, default_generator
from ..graph.base import INFERENCE_VERSION, TensorBase, make
from ..graph.modes import INFERENCE, state
from .arguments import sizes
from .core import Tensor

__all__ = [
    "arange", "as_tensor", "bernoulli", "empty", "empty_like", "eye", "from_numpy", "full", "full_like",
    "get_rng_state", "initial_seed", "linspace", "logspace", "manual_seed", "multinomial", "normal", "ones",
    "ones_like", "rand",
    "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "set_rng_state", "tensor", "zeros",
    "zeros_like",
]


def _made(host: np.ndarray, device: Any, requires_grad: bool, pin_memory: bool = False) -> Tensor:
    """A leaf over a host array's content on `device`; None is the default device."""
    place = default_place() if device is None else Device(device)
    return _leaf(host if place is None else get(place).from_host(host, place), requires_grad, pin_memory)


def _leaf(array: Any, requires_grad: bool, pin_memory: bool = False) -> Tensor:
    t: Tensor = make(Tensor, array)
    if pin_memory:
        t = t.pin_memory()
    if state.flags & INFERENCE:
        t.version = INFERENCE_VERSION
    if requires_grad:
        t.requires_grad = True
    return t


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
           pin_memory: bool = False) -> Tensor:
    """A new tensor with a copy of `data`: numbers, nested sequences, arrays, tensors.

    Python floats become the default dtype, Python ints int64; arrays keep their dtype.

    Args:
        pin_memory: on the host, in pinned memory; see `Tensor.pin_memory`.

    Raises:
        TypeError: the data are not numbers.
        ValueError: nested sequences of unequal length.
    """
    if isinstance(data, TensorBase):
        array = data.to(dtype=dtype, device=device).array  # type: ignore[attr-defined]
        return _leaf(of(array).xp.array(array, order="C") if array is data.array else array, requires_grad,
                     pin_memory)
    return _made(_host_array(data, dtype, copy=True), device, requires_grad, pin_memory)


def _host_array(data: Any, dtype: Any, *, copy: bool) -> np.ndarray:
    wanted = dtype_of(dtype)
    if isinstance(data, (np.ndarray, np.generic)):
        found = np.array(data, dtype=wanted, copy=copy or None)
        category(found.dtype)
        return found
    if isinstance(data, (list, tuple)):
        data = _plain(data)
    found = np.array(data, dtype=wanted)
    if wanted is None:
        if found.dtype == np.float64 and not _has_numpy(data):
            found = found.astype(get_default_dtype())
        elif found.dtype == np.complex128 and not _has_numpy(data):
            found = found.astype(np.complex64 if get_default_dtype() != np.float64 else np.complex128)
        elif found.size == 0 and found.dtype == np.float64:
            found = found.astype(get_default_dtype())
    category(found.dtype)
    return found


def _plain(data: Any) -> Any:
    """Nested sequences with tensors replaced by their host arrays."""
    if isinstance(data, TensorBase):
        return of(data.array).to_host(data.array)
    return [_plain(x) for x in data] if isinstance(data, (list, tuple)) else data


def _has_numpy(data: Any) -> bool:
    """Whether the first leaf of a nested sequence carries a dtype of its own."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return isinstance(data, (np.ndarray, np.generic))


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`data` as a tensor, sharing memory where dtype and device allow it."""
    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)
    if isinstance(data, np.ndarray):
        return _made(_host_array(data, dtype, copy=False), device, False)
    return tensor(data, dtype=dtype, device=device)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory.

    Raises:
        TypeError: no numpy array, or an element type that tensors do not have.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy takes a numpy array, got {type(array).__name__}")
    category(array.dtype)
    return _leaf(array, False)


def _number(value: Any) -> Any:
    """A number that was given as such, or as a tensor of one element on whatever device."""
    return value.item() if isinstance(value, Tensor) else value


def _filled(shape: Any, value: Any, dtype: Any, device: Any, requires_grad: bool, pin_memory: bool) -> Tensor:
    found, value = dtype_of(dtype), _number(value)
    if found is None:
        found = np.dtype(bool) if isinstance(value, bool) else np.dtype(np.int64) if isinstance(value, int) else \
            get_default_dtype() if isinstance(value, float) else np.result_type(get_default_dtype(), value)
    return _placed("full", device, requires_grad, sizes(shape), value, found, pin_memory=pin_memory)


def _placed(maker: str, device: Any, requires_grad: bool, *args: Any, pin_memory: bool = False) -> Tensor:
    """A leaf that a function of the device's array namespace makes."""
    place = default_place() if device is None else Device(device)
    if place is None:
        return _leaf(getattr(np, maker)(*args), requires_grad, pin_memory)
    backend = get(place)
    with backend.using(place):
        return _leaf(getattr(backend.xp, maker)(*args), requires_grad, pin_memory)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
         pin_memory: bool = False) -> Tensor:
    """Every element `fill_value`, whose kind decides the dtype unless one is given."""
    return _filled((size,), fill_value, dtype, device, requires_grad, pin_memory)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          pin_memory: bool = False) -> Tensor:
    """Zeros of the given sizes."""
    return _filled(size, 0.0, dtype, device, requires_grad, pin_memory)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
         pin_memory: bool = False) -> Tensor:
    """Ones of the given sizes."""
    return _filled(size, 1.0, dtype, device, requires_grad, pin_memory)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          pin_memory: bool = False) -> Tensor:
    """Uninitialised memory of the given sizes."""
    return _placed("empty", device, requires_grad, sizes(size), dtype_of(dtype) or get_default_dtype(),
                   pin_memory=pin_memory)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones on the diagonal of an n x m matrix."""
    return _placed("eye", device, requires_grad, n, m, 0, dtype_of(dtype) or get_default_dtype())


def arange(start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:
    """start, start + step, ... below end; one argument counts from 0."""
    start, end, step = [_number(x) for x in ((0, start, step) if end is None else (start, end, step))]
    found = dtype_of(dtype)
    if found is None:
        whole = all(isinstance(x, int) or getattr(x, "dtype", np.dtype("f")).kind in "iu" for x in (start, end, step))
        found = np.dtype(np.int64) if whole else get_default_dtype()
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError(f"arange: step {step} does not lead from {start} to {end}")
    if found.kind in "iu" and all(isinstance(x, int) for x in (start, end, step)):  # floats are added up on the host
        return _placed("arange", device, requires_grad, start, end, step, found)
    return _made(np.arange(start, end, step).astype(found), device, requires_grad)


def linspace(start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:
    """`steps` numbers evenly spaced from start to end, both included."""
    start, end = _number(start), _number(end)
    return _made(np.linspace(start, end, steps, dtype=dtype_of(dtype) or get_default_dtype()), device, requires_grad)


def logspace(start: float, end: float, steps: int, base: float = 10.0, *, dtype: Any = None,
             device: Any = None) -> Tensor:
    """base to the powers of `linspace(start, end, steps)`."""
    start, end = _number(start), _number(end)
    return _made(np.logspace(start, end, steps, base=base, dtype=dtype_of(dtype) or get_default_dtype()), device, False)


# -- random

def manual_seed(seed: int) -> Generator:
    """Start this context's stream from `seed`."""
    return default_generator().manual_seed(seed)


def initial_seed() -> int:
    """The seed of this context's stream."""
    return default_generator().initial_seed()


def get_rng_state() -> dict[str, Any]:
    """The position of this context's stream."""
    return default_generator().get_state()


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue this context's stream from a position."""
    default_generator().set_state(state)


def _stream(generator: Generator | None) -> np.random.Generator:
    return (generator or default_generator()).numpy


def _real(dtype: Any) -> Any:
    found = dtype_of(dtype) or get_default_dtype()
    if found.kind not in "fc":
        raise RuntimeError(f"random numbers of this kind are floating, not {found}")
    return found


def rand(*size: Any, generator: Generator | None = None, dtype: Any = None, device: Any = None,
         requires_grad: bool = False) -> Tensor:
    """Numbers drawn evenly from [0, 1)."""
    found = _real(dtype)
    native = found if found in (np.float32, np.float64) else np.float32
    host = _stream(generator).random(sizes(size), dtype=native)
    return _made(host.astype(found, copy=False), device, requires_grad)


def randn(*size: Any, generator: Generator | None = None, dtype: Any = None, device: Any = None,
          requires_grad: bool = False) -> Tensor:
    """Normally distributed numbers; complex ones have variance 1 in all."""
    found = _real(dtype)
    stream = _stream(generator)
    shape = sizes(size)
    if found.kind == "c":
        host = (stream.standard_normal(shape) + 1j * stream.standard_normal(shape)) * np.sqrt(0.5)
    else:
        host = stream.standard_normal(shape, dtype=found if found in (np.float32, np.float64) else np.float32)
    return _made(np.asarray(host).astype(found, copy=False), device, requires_grad)


def randint(low: int, high: Any = None, size: Any = None, *, generator: Generator | None = None, dtype: Any = None,
            device: Any = None, requires_grad: bool = False) -> Tensor:
    """Integers drawn from [low, high); `randint(high, size)` draws from [0, high)."""
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise RuntimeError(f"randint: no integer lies in [{low}, {high})")
    host = _stream(generator).integers(low, high, sizes((size,)))
    return _made(np.asarray(host).astype(dtype_of(dtype) or np.int64), device, requires_grad)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers below n in random order."""
    return _made(_stream(generator).permutation(n).astype(dtype_of(dtype) or np.int64), device, False)


def normal(mean: Any, std: Any, size: Any = None, *, generator: Generator | None = None) -> Tensor:
    """Normal numbers; mean and std are numbers (with `size`) or tensors."""
    device = next((device_of(x.array) for x in (mean, std) if isinstance(x, TensorBase)), None)
    mean, std = (_plain(x) if isinstance(x, TensorBase) else x for x in (mean, std))
    host = _stream(generator).normal(mean, std, None if size is None else sizes((size,)))
    return _made(np.asarray(host).astype(get_default_dtype()), device, False)


def bernoulli(p: TensorBase, *, generator: Generator | None = None) -> Tensor:
    """Ones with the probabilities that `p` holds, else zeros."""
    host = _plain(p)
    return _made((_stream(generator).random(host.shape) < host).astype(host.dtype), p.device, False)  # type: ignore[attr-defined]


def multinomial(input: TensorBase, num_samples: int, replacement: bool = False, *,
                generator: Generator | None = None) -> Tensor:
    """Indices drawn with probabilities proportional to the rows of `input`; (rows, num_samples).

    Raises:
        RuntimeError: a row that is negative, not finite or all zero, or has too few entries.
    """
    host = np.asarray(_plain(input), dtype=np.float64)
    rows = host[None] if host.ndim == 1 else host
    if not np.isfinite(rows).all() or (rows < 0).any() or (rows.sum(-1) <= 0).any():
        raise RuntimeError("multinomial: weights are finite, not negative, and not all zero in a row")
    if not replacement and ((rows > 0).sum(-1) < num_samples).any():
        raise RuntimeError(f"multinomial: a row has fewer than {num_samples} entries to draw without replacement")
    stream = _stream(generator)
    drawn = np.stack([stream.choice(rows.shape[1], num_samples, replacement, row / row.sum()) for row in rows])
    return _made(drawn if host.ndim > 1 else drawn[0], device_of(input.array), False)


# -- like another tensor

def _like(maker: Any, input: TensorBase, dtype: Any, device: Any, requires_grad: bool, *args: Any) -> Tensor:
    found: Tensor = maker(*args, dtype=input.dtype if dtype is None else dtype,
                          device=device_of(input.array) if device is None else device,
                          requires_grad=requires_grad)
    return found


def zeros_like(input: TensorBase, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros in the shape, dtype and device of `input`."""
    return _like(zeros, input, dtype, device, requires_grad, input.shape)


def ones_like(input: TensorBase, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones in the shape, dtype and device of `input`."""
    return _like(ones, input, dtype, device, requires_grad, input.shape)


def empty_like(input: TensorBase, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uninitialised memory in the shape, dtype and device of `input`."""
    return _like(empty, input, dtype, device, requires_grad, input.shape)


def full_like(input: TensorBase, fill_value: Any, *, dtype: Any = None, device: Any = None,
              requires_grad: bool = False) -> Tensor:
    """`fill_value` in the shape, dtype and device of `input`."""
    return _like(full, input, dtype, device, requires_grad, input.shape, fill_value)


def rand_like(input: TensorBase, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Numbers from [0, 1) in the shape, dtype and device of `input`."""
    return _like(rand, input, dtype, device, requires_grad, input.shape)


def randn_like(input: TensorBase, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Normal numbers in the shape, dtype and device of `input`."""
    return _like(randn, input, dtype, device, requires_grad, input.shape)


def randint_like(input: TensorBase, low: int, high: int | None = None, *, dtype: Any = None, device: Any = None,
                 requires_grad: bool = False) -> Tensor:
    """Integers from [low, high) in the shape, dtype and device of `input`."""
    low, high = (0, low) if high is None else (low, high)
    return _like(randint, input, dtype, device, requires_grad, low, high, input.shape)
