"""What the cluster tests train: some steps on each rank's share of the data, stopped by a signal and resumed.

train.py FOLDER --steps N [--pause S] [--resume auto] [--save-every K] [--crash-at STEP]. The folder ends
with weights.safetensors, and with a line in steps.txt for each start and each end of rank 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from itertools import islice
from pathlib import Path

import distgrad as dg
from distgrad import checkpoint, nn, optim
from distgrad.data import DataLoader, DistributedSampler, TensorDataset
from distgrad.distributed import DataParallel, stop_on_signals, world

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--pause", type=float, default=0.0)
parser.add_argument("--resume", choices=("auto",))
parser.add_argument("--save-every", type=int, default=10**9)
parser.add_argument("--crash-at", type=int, help="the last rank dies there, the first time it comes by")
args = parser.parse_args()

comm = world()
stop_on_signals()
dg.manual_seed(7)
data = TensorDataset(dg.randn(96, 6), dg.randn(96, 3))
model = DataParallel(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3)))
optimizer = optim.Adam(model.parameters(), lr=0.05)
order = DistributedSampler(data, comm.size, comm.rank, seed=3, drop_last=True)
loader = DataLoader(data, 4, sampler=order, drop_last=True)
saves = checkpoint.Checkpointer(args.folder / "checkpoints")
state = {"model": model, "optimizer": optimizer}
found = saves.resume(state) if args.resume else None
begin = found.step if found else 0


def note(text: str) -> None:
    if comm.rank == 0:
        with open(args.folder / "steps.txt", "a") as file:
            file.write(f"{text}\n")


def batches(step: int):
    """Batches from that step on, each pass over the data in another order."""
    epoch, skip = divmod(step, len(loader))
    while True:
        order.set_epoch(epoch)
        yield from islice(loader, skip, None)
        epoch, skip = epoch + 1, 0


note(f"start at {begin} with {comm.size} ranks")
for step, (x, y) in zip(range(begin + 1, args.steps + 1), batches(begin)):
    optimizer.zero_grad()
    ((model(x) - y) ** 2).mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    time.sleep(args.pause)
    if step == args.crash_at and begin == 0 and comm.rank == comm.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if step % args.save_every == 0:
        saves.save(step, state, asynchronous=True)
    if model.stop_requested:
        saves.save(step, state)
        note(f"stopped after {step}")
        raise SystemExit(0)
checkpoint.save_weights(model, args.folder / "weights.safetensors")
note(f"done after {args.steps}")
saves.close()
