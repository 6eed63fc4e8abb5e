"""The master test's training as one rank's program: master.py FOLDER [simulate] writes FOLDER/rank<r>.npz."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from distgrad.distributed import simulate, world
from distgrad.distributed.hooks import PowerSGDState, bf16_compress_hook, bf16_compress_wrapper, fp16_compress_hook
from tests.distributed.models import MODELS, train

NODES = [2, 2]
HOOKS: dict[str, Any] = {
    "bf16": lambda: bf16_compress_hook, "fp16": lambda: fp16_compress_hook,
    "PowerSGD in bf16": lambda: bf16_compress_wrapper(PowerSGDState(start_powerSGD_iter=2)),
}


def body(folder: Path) -> None:
    comm = world()
    found = {}
    for name, hook in [*((name, None) for name in sorted(MODELS)), *(("wide", hook) for hook in HOOKS)]:
        trace = train(name, comm.rank, comm.size, {"bucket_bytes": 1 << 15, "hook": HOOKS[hook]() if hook else None})
        found[f"{name} {hook} parameters"] = np.array(trace.parameters)
        found[f"{name} {hook} norms"] = np.array(trace.norms)
        found[f"{name} {hook} transport"] = np.array(trace.transport)
    np.savez(folder / f"rank{comm.rank}.npz", **found)


def main(folder: str, *how: str) -> None:
    if how:
        simulate(sum(NODES), NODES)(lambda rank: body(Path(folder)))
    else:
        body(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
