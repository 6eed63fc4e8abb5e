"""What there is: the devices that cupy can use, and the versions of the libraries around it. It changes nothing."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import cupy

from . import driver

__all__ = ["Card", "Versions", "cards", "versions"]


@dataclass(frozen=True)
class Card:
    """One device, as this process sees it.

    Attributes:
        bus: where it sits in its machine; every process there finds the same device at the same place.
        memory: in bytes, all of it.
        capability: of computing, such as '90' for 9.0.
    """

    number: int
    name: str
    bus: str
    memory: int
    capability: str

    def __str__(self) -> str:
        return (f"{self.name} (cuda:{self.number}), {self.memory / 2**30:.1f} GiB, "
                f"compute capability {self.capability[:-1]}.{self.capability[-1]}")


@dataclass(frozen=True)
class Versions:
    """Versions in words; empty for what is not there.

    Attributes:
        built: of the CUDA that cupy was built for.
        driver: of the newest CUDA that the driver runs.
        cudnn: of its frontend for Python.
    """

    cupy: str
    built: str
    driver: str
    nccl: str
    cudnn: str

    def __str__(self) -> str:
        return (f"cupy {self.cupy} for CUDA {self.built}, driver for CUDA {self.driver}, NCCL {self.nccl or 'none'}, "
                f"cuDNN's frontend {self.cudnn or 'none'}")


def cards() -> list[Card]:
    """Every device that this process may use; asking makes none of them ready to compute.

    Raises:
        RuntimeError: there is none any more; see `driver.count`.
    """
    return [_card(number) for number in range(driver.count(cupy))]


def _card(number: int) -> Card:
    runtime = cupy.cuda.runtime
    about = runtime.getDeviceProperties(number)
    name = about["name"]
    return Card(number, name.decode() if isinstance(name, bytes) else str(name),
                str(runtime.deviceGetPCIBusId(number)), int(about["totalGlobalMem"]),
                str(cupy.cuda.Device(number).compute_capability))


def versions() -> Versions:
    """Of what is installed."""
    runtime = cupy.cuda.runtime
    return Versions(cupy.__version__, driver.readable(runtime.runtimeGetVersion()),
                    driver.readable(runtime.driverGetVersion()), _nccl(), _installed("nvidia-cudnn-frontend"))


def _nccl() -> str:
    try:
        found = int(importlib.import_module("cupy.cuda.nccl").get_version())
    except (ImportError, AttributeError):  # not installed, or a cupy that was built without
        return ""
    major, rest = divmod(found, 10_000 if found >= 10_000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
