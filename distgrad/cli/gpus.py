"""What the doctor finds of GPUs: the devices, whether cupy and the driver fit, NCCL and cuDNN, who takes which device.

cupy is loaded only where there is a driver, for that takes a second or two.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from distgrad.cli.finding import Finding, first

if TYPE_CHECKING:
    from distgrad.backend.gpu.inventory import Card

__all__ = ["gpus"]

DEVICES = Path("/proc/driver/nvidia/gpus")
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # also where a container or WSL does not show the former
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def gpus() -> Iterator[Finding]:
    """The devices of this machine, what is there to use them, and which of them each local rank takes."""
    cupy = first(CUPY) or ("cupy" if find_spec("cupy") else "")
    there = _named_by_the_driver()
    if not there and not cupy:
        yield Finding("gpu", "none")
        return
    if not there:
        yield Finding("gpu", f"no NVIDIA device, {cupy}", "cupy is installed, but this node has no NVIDIA device, or "
                      "the container was not given one")
        return
    if not cupy:
        yield Finding("gpu", f"{there}, no cupy", 'pip install "distgrad[cuda13]" (or cuda12, as nvidia-smi says) to '
                      "use them")
        return
    yield from _usable(there, cupy)


def _usable(there: str, cupy: str) -> Iterator[Finding]:
    from distgrad import backend

    try:
        backend.get("cuda")
        from distgrad.backend.gpu.inventory import cards, versions

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cupy warns of what is missing, as the lines below do
            found, about = cards(), versions()
    except RuntimeError as error:
        yield Finding("gpu", f"{there}, {cupy}: they cannot be used", str(error))
        return
    yield Finding("gpu", _described(found), _crowded(found[0]))
    yield Finding("cuda", f"cupy {about.cupy} for CUDA {about.built}, driver for CUDA {about.driver}")
    missing = backend.get("cuda").why_no_collectives()
    yield Finding("nccl", about.nccl or "none", f"GPUs will exchange through the host's memory: {missing}"
                  if missing and len(found) > 1 else "")
    yield Finding("cudnn", f"frontend {about.cudnn}" if about.cudnn else "no frontend (nvidia-cudnn-frontend): "
                  "convolutions do without")
    yield _taken(len(found))


def _named_by_the_driver() -> str:
    """The devices in words, without asking cupy; empty if there is no driver."""
    devices = sorted(DEVICES.glob("*/information"))
    models = {line.split(":", 1)[1].strip().removeprefix("NVIDIA ")
              for path in devices for line in _lines(path) if line.startswith("Model:")}
    if devices:
        return f"{len(devices)} NVIDIA {', '.join(sorted(models))}".rstrip()
    there = any(path.exists() for path in DRIVERS) or shutil.which("nvidia-smi") is not None
    return "NVIDIA devices" if there else ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _described(found: Sequence[Card]) -> str:
    kinds = []
    for (name, memory, capability), alike in groupby(found, lambda card: (card.name, card.memory, card.capability)):
        numbers = [card.number for card in alike]
        which = f"cuda:{numbers[0]}" + (f" to cuda:{numbers[-1]}" if len(numbers) > 1 else "")
        kinds.append(f"{which}: {name}, {memory / 2**30:.1f} GiB, compute capability "
                     f"{capability[:-1]}.{capability[-1]}")
    return "; ".join(kinds)


def _crowded(card: Card) -> str:
    """Of the first device alone, for to ask makes it ready to compute, which takes time and memory."""
    from distgrad import cuda

    free, _ = cuda.mem_get_info(card.number)
    return "" if free > 0.5 * card.memory else \
        f"only {free / 2**30:.1f} GiB of cuda:{card.number} are free: others compute there (nvidia-smi names them)"


def _taken(devices: int) -> Finding:
    if devices == 1:
        return Finding("devices", "every rank of this machine takes cuda:0; several share it, and their gradients go "
                       "through the host's memory")
    text = ", ".join(f"local rank {rank} takes cuda:{rank}" for rank in range(min(devices, 3)))
    text += " and so on" if devices > 3 else ""
    return Finding("devices", f"{text}; of more than {devices} ranks some share, and gradients go through the host's "
                   "memory")
