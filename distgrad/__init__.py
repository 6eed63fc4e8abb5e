"""distgrad: torch's autograd over numpy and cupy arrays, and data parallelism over MPI.

`import distgrad` imports numpy and nothing heavy. Layers above tensors (`nn`, `optim`,
`distributed`, ...) load when first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _tensor as _tensor
from ._tensor.core import Tensor
from ._tensor.creation import (
    arange,
    as_tensor,
    bernoulli,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    get_rng_state,
    initial_seed,
    linspace,
    logspace,
    manual_seed,
    multinomial,
    normal,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    randperm,
    set_rng_state,
    tensor,
    zeros,
    zeros_like,
)
from ._tensor.dlpack import from_dlpack
from .autograd import enable_grad, inference_mode, is_grad_enabled, is_inference_mode_enabled, no_grad, set_grad_enabled
from .backend import Device as device
from .backend import get_default_device, set_default_device
from .backend.dtypes import NAMES as _DTYPES
from .backend.dtypes import finfo, get_default_dtype, iinfo, set_default_dtype
from .backend.random import Generator
from .functions import *  # noqa: F403  every operation under torch's name
from .functions import __all__ as _functions
from .utils.einops import watch as _watch_einops

__version__ = "0.1.0"

_LAZY = ("autograd", "backend", "checkpoint", "cli", "comm", "cuda", "data", "distributed", "linalg", "nn", "ops",
         "optim", "utils")

globals().update(_DTYPES)
_watch_einops()

if TYPE_CHECKING:
    from numpy import dtype as _dtype

    from . import checkpoint as checkpoint
    from . import cuda as cuda
    from . import data as data
    from . import distributed as distributed
    from . import linalg as linalg
    from . import nn as nn
    from . import optim as optim
    from . import utils as utils
    from .distributed import simulate as simulate

    float16: _dtype[Any]
    float32: _dtype[Any]
    float64: _dtype[Any]
    int32: _dtype[Any]
    int64: _dtype[Any]
    complex64: _dtype[Any]
    complex128: _dtype[Any]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"distgrad.{name}")
    if name == "simulate":
        return importlib.import_module("distgrad.distributed").simulate
    raise AttributeError(f"module 'distgrad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "simulate"})


def is_tensor(obj: Any) -> bool:
    """Whether `obj` is a Tensor."""
    return isinstance(obj, Tensor)


__all__ = [
    "Generator", "Tensor", "arange", "as_tensor", "bernoulli", "device", "empty", "empty_like", "enable_grad", "eye",
    "finfo", "from_dlpack", "from_numpy", "full", "full_like", "get_default_device", "get_default_dtype",
    "get_rng_state", "iinfo", "inference_mode", "initial_seed", "is_grad_enabled", "is_inference_mode_enabled",
    "is_tensor", "linspace", "logspace", "manual_seed", "multinomial", "no_grad", "normal", "ones", "ones_like",
    "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "set_default_device",
    "set_default_dtype", "set_grad_enabled", "set_rng_state", "simulate", "tensor", "zeros", "zeros_like", *_DTYPES,
    *_functions,
]
