"""Tensor: torch's tensor over a numpy or cupy array. State, gradient, hooks and conversions.

Methods that compute stand in the mixins beside this file, one line each; operations in `ops`.
(The package is `_tensor`, not `tensor`, because `distgrad.tensor` is the function that makes one.)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import Device, device_of, of
from ..backend.dtypes import dtype_of
from ..graph.backward import backward
from ..graph.base import INFERENCE_VERSION, TensorBase, edge_of, make, new_like, tensor_class, wrap
from ..graph.hooks import RemovableHandle, Table, leaf_hooks
from ..graph.modes import INFERENCE, state
from ..graph.node import PORT
from ..ops import parts, shape
from .conversion import Conversion
from .dlpack import Exchange
from .elementwise import Elementwise
from .fresh import Fresh
from .numpy_protocol import NumpyProtocol
from .operators import Operators
from .reducing import Reducing
from .shaping import Shaping

__all__ = ["Tensor"]


@tensor_class
class Tensor(Operators, Elementwise, Reducing, Shaping, Conversion, Fresh, NumpyProtocol, Exchange, TensorBase):
    """An n-dimensional array that remembers how it was computed.

    `t.array` is the raw array (shared memory, outside the graph's knowledge). Make tensors with
    `distgrad.tensor`, `zeros`, `randn`, `from_numpy`, ...
    """

    __slots__ = ("__dict__",)
    __array_priority__ = 1000  # arrays of other devices leave an operation with a tensor to the tensor
    __hash__ = object.__hash__

    def __new__(cls, data: Any = (), *, dtype: Any = None) -> Tensor:
        if isinstance(data, TensorBase):
            return make(cls, data.array)
        return make(cls, np.array(data, dtype=dtype_of(dtype) or np.float32))

    # -- what it is

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def device(self) -> Device:
        """Where the array lies."""
        return device_of(self.array)

    @property
    def itemsize(self) -> int:
        return self.array.itemsize

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    @property
    def T(self) -> Tensor:
        """Dimensions in reverse order."""
        return shape.permute(self, tuple(range(self.array.ndim))[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two dimensions exchanged."""
        return shape.transpose(self, -2, -1)

    @property
    def H(self) -> Tensor:
        """The conjugate transpose of a matrix."""
        return self.conj().mT

    @property
    def real(self) -> Tensor:
        return parts.real(self)

    @property
    def imag(self) -> Tensor:
        return parts.imag(self)

    def conj(self) -> Tensor:
        return parts.conj(self)

    def angle(self) -> Tensor:
        return parts.angle(self)

    def size(self, dim: int | None = None) -> Any:
        """All sizes, or one."""
        return self.array.shape if dim is None else self.array.shape[dim]

    def dim(self) -> int:
        return self.array.ndim

    def numel(self) -> int:
        return self.array.size

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self.array.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """Strides in elements, as torch counts them."""
        strides = tuple(s // self.array.itemsize for s in self.array.strides)
        return strides if dim is None else strides[dim]

    def is_contiguous(self) -> bool:
        return bool(self.array.flags.c_contiguous)

    def data_ptr(self) -> int:
        """The address of the first element."""
        return of(self.array).address(self.array)

    def is_floating_point(self) -> bool:
        return self.array.dtype.kind == "f"

    def is_complex(self) -> bool:
        return self.array.dtype.kind == "c"

    def is_inference(self) -> bool:
        return self.version is INFERENCE_VERSION

    def __len__(self) -> int:
        if not self.array.ndim:
            raise TypeError("a 0-d tensor has no length")
        return len(self.array)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.array.ndim:
            raise TypeError("a 0-d tensor cannot be iterated over")
        return iter(shape.unbind(self, 0))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    # -- its place in the graph

    @property
    def requires_grad(self) -> bool:
        """Whether backward computes a gradient for this tensor."""
        return self.fn is not None or self._rg

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise RuntimeError(f"requires_grad is a bool, got {type(value).__name__}")
        if self.fn is not None:
            raise RuntimeError("only a leaf's requires_grad can change; use detach() for a tensor without history")
        if value and self.array.dtype.kind not in "fc":
            raise RuntimeError(f"only floating and complex tensors can require grad, this one is {self.dtype}")
        if value and self.is_inference() and not state.flags & INFERENCE:
            raise RuntimeError("an inference tensor cannot require grad; clone() it outside inference_mode first")
        self._rg = value

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor."""
        if self.fn is None or not requires_grad:
            self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""
        return self.fn is None

    @property
    def grad_fn(self) -> Any:
        """The node of the operation that made it, or None."""
        fn = self.fn
        return fn.node if fn is not None and fn.kind == PORT else fn

    @property
    def output_nr(self) -> int:
        """Which output of `grad_fn` it is."""
        return self.fn.number if self.fn is not None and self.fn.kind == PORT else 0

    @property
    def _version(self) -> int:
        if self.is_inference():
            raise RuntimeError("an inference tensor has no version: its changes are not counted")
        return 0 if self.version is None else self.version[0]

    @property
    def _base(self) -> Any:
        return None if self._view is None else self._view.base

    def _is_view(self) -> bool:
        return self._view is not None

    @property
    def grad(self) -> Any:
        """The accumulated gradient, or None."""
        if self._grad is None and self.fn is not None and not self.retains_grad:
            import warnings

            warnings.warn("reading .grad of a tensor that is no leaf: it is kept only after retain_grad()",
                          UserWarning, stacklevel=2)
        return self._grad if self.placement is None else self.placement.read(self)

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            if not isinstance(value, TensorBase):
                raise TypeError(f".grad is a tensor or None, got {type(value).__name__}")
            if value is self:
                raise RuntimeError("a tensor cannot be its own gradient")
            if value.shape != self.shape or value.dtype != self.dtype or of(value.array) is not of(self.array):
                raise RuntimeError(
                    f".grad must match its tensor (shape {self.shape}, {self.dtype}, {self.device}), got shape "
                    f"{value.shape}, {value.dtype}, {device_of(value.array)}")
        if self.placement is not None:
            self.placement.assign(self, value)
        else:
            self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self.grad = None

    def backward(self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
                 inputs: Any = None) -> None:
        """Accumulate gradients into the leaves; see `distgrad.autograd.backward`."""
        backward(self, gradient, retain_graph, create_graph, inputs)

    def detach(self) -> Tensor:
        """The same memory and version, outside the graph."""
        return new_like(self)

    def detach_(self) -> Tensor:
        """Cut this tensor from the graph.

        Raises:
            RuntimeError: it is a view, whose base would keep the history.
        """
        if self._view is not None:
            raise RuntimeError("detach_: a view shares its base's history; use detach()")
        self.fn = None
        self._rg = False
        return self

    @property
    def data(self) -> Tensor:
        """The same memory outside the graph; changes through it are not counted."""
        found: Tensor = wrap(self.array)
        if self.is_inference():
            found.version = INFERENCE_VERSION
        return found

    @data.setter
    def data(self, value: Any) -> None:
        if not isinstance(value, TensorBase):
            raise TypeError(f".data is a tensor, got {type(value).__name__}")
        if self.requires_grad and value.dtype.kind not in "fc":
            raise RuntimeError(f"this tensor requires grad, so its data are floating or complex, not {value.dtype}")
        if self.placement is not None:
            self.placement.refuse_rebinding(self)
        self.array = value.array

    # -- hooks

    def register_hook(self, hook: Callable[[Any], Any]) -> RemovableHandle:
        """Call hook(grad) when the gradient of this tensor is computed; it may return another one.

        Raises:
            RuntimeError: the tensor does not require grad.
        """
        if edge_of(self) is None:
            raise RuntimeError("register_hook: this tensor does not require grad, so no gradient will come")
        if self.fn is None:
            return leaf_hooks(self).tensor.add(hook)
        return self.grad_fn.all_hooks().tensor.setdefault(self.output_nr, Table()).add(hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Any], None]) -> RemovableHandle:
        """Call hook(leaf) after a gradient was accumulated into `.grad`.

        Raises:
            RuntimeError: the tensor is no leaf, or does not require grad.
        """
        if self.fn is not None or not self._rg:
            raise RuntimeError("register_post_accumulate_grad_hook: only leaves that require grad accumulate")
        return leaf_hooks(self).post_accumulate.add(hook)

    def retain_grad(self) -> None:
        """Keep `.grad` of this tensor although it is no leaf."""
        if edge_of(self) is None:
            raise RuntimeError("retain_grad: this tensor does not require grad")
        if self.fn is not None:
            self.grad_fn.all_hooks().retained[self.output_nr] = weakref.ref(self)

    @property
    def retains_grad(self) -> bool:
        """Whether `retain_grad` was called on this tensor."""
        hooks = None if self.fn is None else self.grad_fn.hooks
        reference = None if hooks is None else hooks.retained.get(self.output_nr)
        return reference is not None and reference() is self

    def __repr__(self) -> str:
        from .show import show

        return show(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self.fn is not None:
            raise RuntimeError("deepcopy of a tensor with history is not possible; detach() or clone() it")
        copy = make(type(self), of(self.array).xp.array(self.array, order="C"), None, self._rg)
        if self._grad is not None:
            copy._grad = self.grad.clone()
        memo[id(self)] = copy
        return copy
