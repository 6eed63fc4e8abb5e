"""torch as a peer: on one thread, on the device that this package computes on, its ranks in a process group.

torch is imported when a peer is asked for, never by importing this file.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..comm import Communicator
from ..config import config
from .place import Place

__all__ = ["LeftOut", "torch_beside", "torch_if_it_can", "torch_ranks"]


class LeftOut(Exception):
    """A peer that cannot be measured here; its text says why, behind the peer's name."""


@contextmanager
def torch_beside(comm: Communicator, place: Place) -> Iterator[Any]:
    """torch on one thread and on this rank's device; several ranks get a process group. Collective.

    Raises:
        LeftOut: torch has no such device, or its ranks would have to share one.
    """
    import torch

    if place.is_gpu:
        _on_gpu(torch, comm, place)
    if comm.size > 1:
        with torch_ranks(comm, "nccl" if place.is_gpu else "gloo"):
            yield torch
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield torch
    finally:
        torch.set_num_threads(threads)


def torch_if_it_can(stack: ExitStack, comm: Communicator, place: Place, peer: str | None) -> Any:
    """torch until the stack is left, if `peer` asks for it; None otherwise, and if it is left out, which rank 0 says.
    Collective."""
    if peer != "torch":
        return None
    try:
        return stack.enter_context(torch_beside(comm, place))
    except LeftOut as why:
        if comm.rank == 0:
            print(f"torch {why}", flush=True)
        return None


def _on_gpu(torch: Any, comm: Communicator, place: Place) -> None:
    """Choose the device, and what this package's configuration says of TF32; LeftOut on all ranks if one cannot."""
    reason = "" if torch.cuda.is_available() else f"{torch.__version__} sees no CUDA device"
    reasons = [text.decode() for text in comm.allgather_bytes(reason.encode())]
    if any(reasons):
        raise LeftOut(next(filter(None, reasons)))
    if not place.apart:
        raise LeftOut("is left out: its ranks would share a device, which NCCL refuses")
    torch.cuda.set_device(place.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer ones want other names, which older ones do not have
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(config.tf32)


@contextmanager
def torch_ranks(comm: Communicator, backend: str = "gloo") -> Iterator[Any]:
    """torch with a process group of the ranks of `comm`, one thread each. Collective."""
    import torch
    import torch.distributed as group

    torch.set_num_threads(1)
    folder = tempfile.mkdtemp(prefix="distgrad-bench-") if comm.rank == 0 else ""
    folder = comm.broadcast_bytes(folder.encode()).decode()
    try:
        group.init_process_group(backend, init_method=f"file://{folder}/store", rank=comm.rank, world_size=comm.size)
        yield torch
        comm.barrier()
        group.destroy_process_group()
    finally:
        if comm.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
