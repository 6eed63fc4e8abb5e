"""New tensors in the dtype and on the device of one that is there, and comparisons of whole tensors."""

from __future__ import annotations

from typing import Any

from ..backend import Device, device_of, get
from ..backend.dtypes import dtype_of
from ..graph.base import wrap
from ..ops import closeness, select, shape
from ..ops.inplace import in_place
from .arguments import sizes

__all__ = ["Fresh"]


class Fresh:
    """`new_*`, closeness, and short names of conversions and bounds."""

    __slots__ = ()

    def _new(self, fill: str, size: tuple[Any, ...], dtype: Any, device: Any, requires_grad: bool, *value: Any) -> Any:
        place = device_of(self.array) if device is None else Device(device)
        backend = get(place)
        with backend.using(place):
            made = wrap(getattr(backend.xp, fill)(sizes(size), *value, dtype=dtype_of(dtype) or self.dtype))
        return made.requires_grad_() if requires_grad else made

    def new_zeros(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        return self._new("zeros", size, dtype, device, requires_grad)

    def new_ones(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        return self._new("ones", size, dtype, device, requires_grad)

    def new_empty(self, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        return self._new("empty", size, dtype, device, requires_grad)

    def new_full(self, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
                 requires_grad: bool = False) -> Any:
        return self._new("full", (size,), dtype, device, requires_grad, fill_value)

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        """A copy of `data`, in this tensor's dtype and on its device unless others are given."""
        from .creation import tensor

        return tensor(data, dtype=self.dtype if dtype is None else dtype,
                      device=device_of(self.array) if device is None else device, requires_grad=requires_grad)

    def allclose(self, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
        return closeness.allclose(self, other, rtol, atol, equal_nan)

    def isclose(self, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
        return closeness.isclose(self, other, rtol, atol, equal_nan)

    def equal(self, other: Any) -> bool:
        return closeness.equal(self, other)

    def nan_to_num(self, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
        return closeness.nan_to_num(self, nan, posinf, neginf)

    def clamp_min(self, min: Any) -> Any:
        return select.clamp(self, min, None)

    def clamp_max(self, max: Any) -> Any:
        return select.clamp(self, None, max)

    def clamp_min_(self, min: Any) -> Any:
        return in_place("clamp_min_", self, select.clamp, min, None)

    def clamp_max_(self, max: Any) -> Any:
        return in_place("clamp_max_", self, select.clamp, None, max)

    def nan_to_num_(self, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
        return in_place("nan_to_num_", self, closeness.nan_to_num, nan, posinf, neginf)

    @property
    def is_cuda(self) -> bool:
        return bool(device_of(self.array).type == "cuda")

    def short(self) -> Any:
        return self.to("int16")

    def byte(self) -> Any:
        return self.to("uint8")

    def char(self) -> Any:
        return self.to("int8")

    def rot90(self, k: int = 1, dims: Any = (0, 1)) -> Any:
        return shape.rot90(self, k, dims)
