"""What the cluster tests train: some steps on each rank's own data, saved when a signal asks for it.

train.py FOLDER --steps N [--pause S] [--resume auto]. The folder ends with weights.safetensors, and with
a line in steps.txt for each start and each end of rank 0.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path

import numpy as np

import distgrad as dg
from distgrad import checkpoint, nn, optim
from distgrad.distributed import DataParallel, world

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--pause", type=float, default=0.0)
parser.add_argument("--resume", choices=("auto",))
args = parser.parse_args()

asked = []
if world().size > 1 or args.resume:
    for number in (signal.SIGUSR2, signal.SIGTERM):
        try:
            signal.signal(number, lambda number, frame: asked.append(number))
        except ValueError:  # a simulated rank is a thread
            break

comm = world()
weights, progress = args.folder / "weights.safetensors", args.folder / "progress.json"
dg.manual_seed(7)
model = DataParallel(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)))
optimizer = optim.SGD(model.parameters(), lr=0.05)
first = 0
if args.resume and progress.exists():
    checkpoint.load_weights(weights, model)
    first = json.loads(progress.read_text())["step"]


def note(text: str) -> None:
    if comm.rank == 0:
        with open(args.folder / "steps.txt", "a") as file:
            file.write(f"{text}\n")


def save(step: int) -> None:
    checkpoint.save_weights(model, weights)
    if comm.rank == 0:
        temporary = progress.with_suffix(".tmp")
        temporary.write_text(json.dumps({"step": step}))
        os.replace(temporary, progress)


note(f"start at {first} with {comm.size} ranks")
for step in range(first, args.steps):
    x = dg.from_numpy(np.random.default_rng([comm.rank, step]).standard_normal((8, 6), dtype=np.float32))
    optimizer.zero_grad()
    ((model(x) - x[:, :3].sin()) ** 2).mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    time.sleep(args.pause)
    # All ranks stop at the same step, whichever of them were told to.
    if any(comm.allgather_bytes(b"y" if asked else b"")):
        save(step + 1)
        note(f"stopped after {step + 1}")
        raise SystemExit(0)
save(args.steps)
note(f"done after {args.steps}")
