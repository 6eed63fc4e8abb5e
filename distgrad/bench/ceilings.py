"""What a device can do at best: copies and products of matrices, by the same clock as training steps.

A figure beside which others are to be read: no step computes faster than the card multiplies, no exchange by way of
the host is faster than the card's copies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..comm import SelfCommunicator
from ..config import config
from .clock import Sample, show, summarize
from .place import Clock, DeviceClock, Place
from .torch_ranks import torch_if_it_can

__all__ = ["Ceiling", "best_product", "report", "run"]

COPIES = (64 << 10, 1 << 20, 16 << 20, 256 << 20, 1 << 30)  # bytes
COPIES_ON_HOST = COPIES[:3]
_MOST_ACROSS = 256 << 20  # bytes between host and device
PRODUCTS = (1024, 2048, 4096, 8192)  # n of n x n matrices
PRODUCTS_ON_HOST = (128, 256, 512)
_STRETCH = 5e-3  # seconds that a measurement lasts at least: a shorter call is repeated in it
_MOST_REPEATS = 1000
_WARM_UP = 0.5  # seconds of work before the first one: a card that had nothing to do runs slowly

Contestant = tuple[Clock, Callable[[], object]]


@dataclass(frozen=True)
class Ceiling:
    """What was measured of one kind and size.

    Attributes:
        kind: 'copy', 'copy across' (between host and device) or 'product'.
        size: in bytes, or n of n x n matrices.
        work: what each sample did, and the unit of doing so much a second.
    """

    kind: str
    size: int
    samples: list[Sample]
    work: tuple[float, str]

    def rates(self) -> dict[str, float]:
        """By name, in the unit of `work`."""
        return {sample.name: self.work[0] / (sample.median * 1e-6) for sample in self.samples}


def run(place: Place, rounds: int = 10, peer: str | None = None, copies: Sequence[int] = (),
        products: Sequence[int] = ()) -> Iterator[Ceiling]:
    """Measure copies and products of matrices of several sizes.

    Args:
        peer: 'torch' adds its products, and bfloat16's.
        copies: bytes; default COPIES, or COPIES_ON_HOST.
        products: n of n x n matrices; default PRODUCTS, or PRODUCTS_ON_HOST.
    """
    with ExitStack() as stack:
        torch = torch_if_it_can(stack, SelfCommunicator(), place, peer)
        _warm_up(place)
        for size in copies or (COPIES if place.is_gpu else COPIES_ON_HOST):
            yield _copies(place, size, rounds)
            if place.device != "cpu" and size <= _MOST_ACROSS:
                yield _across(place, size, rounds)
            place.release()
        for n in products or (PRODUCTS if place.is_gpu else PRODUCTS_ON_HOST):
            yield _products(place, n, rounds, torch)
            place.release()


def best_product(place: Place, rounds: int = 5) -> tuple[str, float]:
    """How float32 matrices are multiplied in this process, and by how many TFLOP/s at best."""
    kind = "tf32" if place.is_gpu and config.tf32 else "float32"
    _warm_up(place)
    sizes = (PRODUCTS if place.is_gpu else PRODUCTS_ON_HOST)[-2:]
    rate = max(_products(place, n, rounds, kinds=(kind,)).rates()[kind] for n in sizes)
    place.release()
    return kind, rate


def report(ceiling: Ceiling, where: dict[str, str]) -> None:
    """Print a table with rates, and JSON lines."""
    size = f"{ceiling.size:,} x {ceiling.size:,}" if ceiling.kind == "product" else f"{ceiling.size / 2**20:g} MiB"
    show(f"ceilings: {ceiling.kind}, {size}", ceiling.samples, work=ceiling.work, kind=ceiling.kind, size=ceiling.size,
         **where)


# -- copies

def _copies(place: Place, size: int, rounds: int) -> Ceiling:
    xp = place.backend.xp
    x, y = _random(place, size // 4), _random(place, size // 4)
    contestants = {"copy": partial(xp.copyto, y, x), "kernel, y = 2 x": partial(xp.multiply, x, 2, out=y)}
    return Ceiling("copy", size, _measured(place, contestants, rounds), (2 * size / 1e9, "GB/s read and written"))


def _across(place: Place, size: int, rounds: int) -> Ceiling:
    backend = place.backend
    x = _random(place, size // 4)
    pinned, pageable = backend.host_memory(x.shape, x.dtype), np.zeros(x.shape, x.dtype)
    pinned[...] = 0
    contestants = {"host to device, pinned": partial(backend.fill_from_host, x, pinned),
                   "host to device, pageable": partial(backend.fill_from_host, x, pageable),
                   "device to host, pinned": partial(backend.to_host, x, pinned),
                   "device to host, pageable": partial(backend.to_host, x, pageable)}
    return Ceiling("copy across", size, _measured(place, contestants, rounds), (size / 1e9, "GB/s"))


def _random(place: Place, *shape: int, dtype: str = "float32") -> Any:
    values = np.random.default_rng(0).standard_normal(shape, "float32").astype(dtype)
    return place.backend.from_host(values)


# -- products

def _products(place: Place, n: int, rounds: int, torch: Any = None,
              kinds: Sequence[str] = ("float32", "tf32", "float16")) -> Ceiling:
    samples = []
    for kind in kinds:
        if kind != "float32" and not place.is_gpu:
            continue
        with _in_kind(place, kind) as can:
            if can is not False:
                samples += _measured(place, {kind: _product(place, n, kind)}, rounds)
    if torch is not None:
        for kind in (*kinds, "bfloat16") if place.is_gpu else ("float32",):
            samples += _torch_product(torch, place, n, kind, rounds)
    return Ceiling("product", n, samples, (2 * n**3 / 1e12, "TFLOP/s"))


def _in_kind(place: Place, kind: str) -> AbstractContextManager[Any]:
    """In which products are of this kind; False if they cannot be."""
    if not place.is_gpu or kind == "float16" or (kind == "tf32") == bool(config.tf32):
        return nullcontext()  # they are already
    from ..backend.gpu.precision import float32_products

    return float32_products(kind == "tf32")


def _product(place: Place, n: int, kind: str) -> Callable[[], object]:
    x, y = (_random(place, n, n, dtype="float16" if kind == "float16" else "float32") for _ in range(2))
    return partial(place.backend.xp.matmul, x, y)


def _torch_product(torch: Any, place: Place, n: int, kind: str, rounds: int) -> list[Sample]:
    precision = torch.backends.cuda.matmul
    dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
    x, y = (torch.randn(n, n, device=place.peers).to(dtype) for _ in range(2))
    before = precision.allow_tf32
    precision.allow_tf32 = kind == "tf32"
    try:
        clock = DeviceClock(torch.cuda) if place.is_gpu else place.clock
        return _measured(place, {f"torch {kind}": lambda: x @ y}, rounds, clock)
    finally:
        precision.allow_tf32 = before


# -- measuring

def _warm_up(place: Place) -> None:
    if place.is_gpu:
        call, end = _product(place, PRODUCTS[0], "float32"), time.perf_counter() + _WARM_UP
        while time.perf_counter() < end:
            call()
            place.clock.synchronize()


def _measured(place: Place, calls: dict[str, Callable[[], object]], rounds: int,
              clock: Clock | None = None) -> list[Sample]:
    """Medians of single calls; each measurement repeats its call for a while, with nothing to wait for between."""
    clock = clock or place.clock
    repeats = {}
    for name, call in calls.items():
        _seconds(clock, call, 1)  # it may look for memory, or load a library
        repeats[name] = max(1, min(_MOST_REPEATS, round(_STRETCH / max(_seconds(clock, call, 1), 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_seconds(clock, call, repeats[name]) * 1e6 / repeats[name])
    return summarize(times)


def _seconds(clock: Clock, call: Callable[[], object], count: int) -> float:
    clock.synchronize()
    begin = clock.mark()
    for _ in range(count):
        call()
    end = clock.mark()
    clock.synchronize()
    return clock.seconds(begin, end)
