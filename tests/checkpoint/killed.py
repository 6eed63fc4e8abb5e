"""Saves checkpoints in processes that are killed, and looks after each what is there. A program; see test_kill.

    python killed.py FOLDER KILLS SEED

Each process saves again and again, and says when a save has returned. Half of them are killed at a random moment,
half of them just before, in the middle of, or just after one of the calls that change the disk.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

import distgrad
from distgrad import checkpoint, nn, simulate
from distgrad.checkpoint import Checkpointer

RANKS = (1, 2)
CALLS = ("open", "write", "fsync", "rename", "unlink", "mkdir", "rmdir")


class Value:
    """A state that shows whether it is whole, and from which step it is."""

    def __init__(self) -> None:
        self.module = nn.Linear(200, 40)

    def fill(self, step: int) -> None:
        with distgrad.no_grad():
            for p in self.module.parameters():
                p.fill_(step)

    def step(self) -> int:
        found = np.concatenate([p.detach().numpy().reshape(-1) for p in self.module.parameters()])
        assert (found == found[0]).all(), "a state of several steps"
        return int(found[0])


def dangerous(name: str, fatal: int, counter: list[int]) -> None:
    """From now on the process dies at the call with the number `fatal`."""
    real: Callable[..., Any] = getattr(os, name)

    def call(*args: Any, **keywords: Any) -> Any:
        counter[0] += 1
        if counter[0] != fatal:
            return real(*args, **keywords)
        moment = random.random()
        if name == "write" and moment < 0.5:
            real(args[0], bytes(args[1])[:len(args[1]) // 2])
        elif moment < 0.75:
            real(*args, **keywords)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, name, call)


def victim(folder: str, ranks: int, first: int, fatal: int | None, told: int) -> NoReturn:
    """Save the steps from `first` on, until killed."""
    def body(rank: int) -> None:
        value = Value()
        with Checkpointer(folder, keep=2) as checkpoints:
            if fatal is not None and rank == 0:
                counter = [0]
                for name in CALLS:
                    dangerous(name, fatal, counter)
            for step in range(first, first + 1000):
                value.fill(step)
                checkpoints.save(step, {"model": value.module}, {"step": step}, asynchronous=step % 3 == 0)
                if rank == 0:
                    os.pwrite(told, f"{step if step % 3 else step - 1:20}".encode(), 0)  # an asynchronous one is late

    try:
        simulate(ranks)(body)
    finally:
        os._exit(1)


def main(folder: str, kills: int, seed: int) -> None:
    random.seed(seed)
    told = os.open(folder + ".told", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    value, newest, moments = Value(), 0, 0
    for number in range(kills):
        ranks = RANKS[number // 2 % len(RANKS)]
        fatal = random.randrange(1, 120) if number % 2 else None
        pid = os.fork()
        if pid == 0:
            random.seed(seed * 1000 + number)
            with contextlib.suppress(BaseException):
                victim(folder, ranks, newest + 1, fatal, told)
            os._exit(1)
        watched = os.pidfd_open(pid)
        if fatal is None:
            time.sleep(random.random() * 0.1)
        elif not select.select([watched], [], [], 20)[0]:
            raise AssertionError("it did not come to its end")
        os.close(watched)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"it ended by itself: {status}"
        said = int(os.pread(told, 20, 0) or 0)
        if not os.path.isdir(folder):
            assert said == 0
            continue
        try:
            found = checkpoint.load(folder, {"model": value.module})
        except FileNotFoundError:
            assert said == 0, f"lost everything, after step {said} was saved"
            continue
        assert not found.skipped, found.skipped  # what is cut off has no name
        assert found.step == found.extra["step"] == value.step() >= said, (found, value.step(), said)
        moments += found.step > newest
        newest = found.step
    left = sorted(os.listdir(folder))
    with Checkpointer(folder, keep=2) as checkpoints:
        assert len(checkpoints.steps()) <= 4
        checkpoints.save(newest + 1, {"model": value.module})
        assert len(checkpoints.steps()) == 2
        assert len(os.listdir(folder)) == 3, (left, os.listdir(folder))
    print(f"{kills} kills, {newest} saves, {moments} times something new")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
