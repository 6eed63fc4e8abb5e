"""The master test's training as one rank's program: master.py FOLDER [simulate] writes FOLDER/rank<r>.npz."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from distgrad.distributed import simulate, world
from tests.distributed.models import MODELS, train

NODES = [2, 2]


def body(folder: Path) -> None:
    comm = world()
    found = {}
    for name in sorted(MODELS):
        trace = train(name, comm.rank, comm.size, {"bucket_bytes": 1 << 15})
        found[f"{name} parameters"] = np.array(trace.parameters)
        found[f"{name} norms"] = np.array(trace.norms)
        found[f"{name} transport"] = np.array(trace.transport)
    np.savez(folder / f"rank{comm.rank}.npz", **found)


def main(folder: str, *how: str) -> None:
    if how:
        simulate(sum(NODES), NODES)(lambda rank: body(Path(folder)))
    else:
        body(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
