"""Whose BLAS multiplies the host's matrices: numpy's own, or MKL where it is installed (the extra `mkl`).

    find("matmul") -> mkl_products (which product is which call) -> mkl (the library: found, set up, called)
                   -> tall (numpy's OpenBLAS with AVX-512: small batches turned over)
                   -> None: the reference, numpy's matmul

It is decided once, when the first product is asked for. What comes after depends on shapes, strides and
dtypes alone. It knows arrays, and neither graphs nor ranks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ...config import config
from . import mkl

__all__ = ["describe", "find", "provider"]


@cache
def provider() -> str:
    """'mkl' or 'numpy', by DISTGRAD_BLAS: 'auto' (the default), 'numpy' or 'mkl'.

    'auto' takes MKL where it is installed and suits processor and threads.

    Raises:
        RuntimeError: DISTGRAD_BLAS says something else, or 'mkl', which is not there.
    """
    wanted = config.blas
    if wanted not in ("auto", "numpy", "mkl"):
        raise RuntimeError(f"DISTGRAD_BLAS={wanted!r} is none of 'auto', 'numpy' and 'mkl'")
    if wanted == "numpy":
        return "numpy"
    if wanted == "mkl":
        if mkl.path() is None:
            raise RuntimeError(f"DISTGRAD_BLAS=mkl, but there is no libmkl_rt in {' or '.join(mkl.folders())}; "
                               'pip install "distgrad[mkl]" brings it (64-bit Intel and AMD processors, Linux), '
                               "DISTGRAD_BLAS=auto does without it")
        return "mkl"
    if mkl.path() is None or not mkl.suits():
        return "numpy"
    try:
        mkl.load()
    except OSError:  # half removed, or for other machines
        return "numpy"
    return "mkl"


def find(name: str) -> Callable[..., Any] | None:
    """The kernel of that name by the provider; None where numpy's own is as good."""
    if name != "matmul":
        return None
    module = "mkl_products" if provider() == "mkl" else "tall" if _turns() else None
    if module is None:
        return None
    override: Callable[..., Any] = importlib.import_module(f"{__name__}.{module}").matmul
    return override


def describe() -> str:
    """Who multiplies matrices, for people; loads what it names."""
    if provider() == "mkl":
        return mkl.load().describe()
    text = "numpy's own" + (", small batches turned over" if _turns() else "")
    if config.blas == "auto" and mkl.path() is not None:
        text += " (MKL is installed, but taken only on Intel processors, in processes whose BLAS has one thread)"
    return text


def _turns() -> bool:
    """Whether numpy has OpenBLAS, and the processor AVX-512; see `tall`."""
    here = np.show_config(mode="dicts")
    blas = here.get("Build Dependencies", {}).get("blas", {}).get("name", "")
    found = here.get("SIMD Extensions", {}).get("found", ())
    return "openblas" in blas and not {"AVX512_SKX", "X86_V4"}.isdisjoint(found)
