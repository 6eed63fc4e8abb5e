"""How a tensor prints: as torch prints it, with its dtype and grad_fn where they are not the usual."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import of
from ..backend.dtypes import get_default_dtype

__all__ = ["show"]

_PREFIX = "tensor("


def show(t: Any) -> str:
    """tensor([1., 2.], requires_grad=True)."""
    host = of(t.array).to_host(t.array)
    name = "Parameter containing:\n" if type(t).__name__ == "Parameter" else ""
    return f"{name}{_PREFIX}{_numbers(host)}{_suffix(t)})"


def _numbers(host: np.ndarray) -> str:
    if host.size == 0:
        return "[]"
    options: dict[str, Any] = {"separator": ", ", "prefix": _PREFIX, "threshold": 1000, "edgeitems": 3}
    if host.dtype.kind == "f":
        finite = host[np.isfinite(host)]
        whole = bool((finite == np.trunc(finite)).all())
        spread = float(np.abs(finite[finite != 0]).max() / np.abs(finite[finite != 0]).min()) if finite.any() else 1.0
        scientific = finite.size > 0 and (float(np.abs(finite).max()) > 1e8 or (not whole and (
            spread > 1e3 or float(np.abs(finite).max()) < 1e-4)))
        if scientific:
            options["formatter"] = {"float_kind": lambda x: f"{x:.4e}"}
        else:
            options.update(floatmode="fixed", precision=0 if whole else 4)
    elif host.dtype.kind == "c":
        options.update(floatmode="fixed", precision=4)
    return np.array2string(host, **options)


def _suffix(t: Any) -> str:
    parts = []
    array = t.array
    if array.size == 0 and array.shape != (0,):
        parts.append(f"size={tuple(array.shape)}")
    usual = array.dtype in (get_default_dtype(), np.int64, np.bool_)
    if not usual or (array.size == 0 and array.dtype != get_default_dtype()):
        parts.append(f"dtype={array.dtype}")
    if t.device.type != "cpu":
        parts.append(f"device='{t.device}'")
    if t.fn is not None:
        parts.append(f"grad_fn=<{t.grad_fn.name()}>")
    elif t._rg:
        parts.append("requires_grad=True")
    return "".join(f", {part}" for part in parts)
