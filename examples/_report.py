"""What the examples share: one-line errors on several ranks, means over ranks, a progress bar and a loss curve."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

import distgrad as dg
from distgrad.config import config


def positive(kind):
    """A type for argparse: numbers above 0."""
    def read(text):
        if not kind(text) > 0:
            raise ValueError
        return kind(text)

    read.__name__ = f"positive {kind.__name__}"  # how argparse calls it in messages
    return read


def fail(comm, message):
    """End with one line from one rank. Every rank calls it."""
    if comm.rank == 0:
        print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def together(comm, action):
    """The result of action(); if it fails on any rank, all of them end with that rank's message."""
    problem, result = "", None
    try:
        result = action()
    except (OSError, ValueError, ImportError) as error:
        problem = str(error) or type(error).__name__
    for message in comm.allgather_bytes(problem.encode()):
        if message:
            fail(comm, message.decode())
    return result


def look_for(comm, device):
    """End on all ranks where one has no such device."""

    def look():
        try:
            dg.zeros(1, device=device)
        except RuntimeError as error:
            raise ValueError(f"--device {device}: {error}") from None

    together(comm, look)


def mean(comm, value, weight=1.0):
    """The weighted mean of a number over the ranks."""
    mine, total = np.array([value * weight, weight]), np.empty(2)
    comm.allreduce(mine, total)
    return float(total[0] / total[1])


def prepare(*files):
    """Make the folders that files will be written to, so that a wrong name is found before hours of training."""
    for file in filter(None, files):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder, not a file to write")
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(f"{file} cannot be written: no permission for {file.parent}")


class Progress:
    """A bar on a terminal, a line every few steps in a log."""

    def __init__(self, steps, every, amount, unit):  # amount: how many units one step takes, on all ranks
        self.steps, self.every, self.amount, self.unit = steps, every, amount, unit
        self.begin, self.terminal, self.bar = None, sys.stderr.isatty() or config.terminal, None
        if self.terminal:
            with suppress(ImportError):  # without it, a plain line that overwrites itself
                from tqdm import tqdm
                self.bar = tqdm(total=steps, unit="step")

    def show(self, step, loss):
        text = f"loss {loss:.3f}"
        line = f"step {step}/{self.steps}  {text}"
        if self.begin is None:
            self.begin = step, time.perf_counter()  # not before: the first step also loads libraries
        else:
            pace = (step - self.begin[0]) / (time.perf_counter() - self.begin[1])
            text = f"{text}  {pace * self.amount:,.0f} {self.unit}/s"
            line = f"step {step}/{self.steps}  {text}  {(self.steps - step) / pace:.0f} s left"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update()
            if step == self.steps:
                self.bar.close()
        elif self.terminal:
            print(f"\r{line}   ", end="" if step < self.steps else "\n", file=sys.stderr, flush=True)
        elif step % self.every == 0 or step in (1, self.steps):
            print(line, flush=True)


def plot(path, losses, unit, validation=None):
    """The loss curve as a picture, if matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return print('no picture of the losses: pip install "distgrad[examples]" brings matplotlib')
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    axes.plot(range(1, len(losses) + 1), losses, label="training, each step")
    if validation is not None:
        axes.axhline(validation, color="C1", linestyle="--", label=f"validation, at the end: {validation:.3f}")
    axes.set(xlabel="step", ylabel=f"loss [{unit}]")
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"loss curve: {path}")
