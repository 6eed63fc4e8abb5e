"""A line of the doctor's report, and the questions that several checks ask."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PATIENCE", "Finding", "ask", "first", "version"]

PATIENCE = 60  # seconds; a launcher that asks a name server which does not answer takes its time


@dataclass(frozen=True)
class Finding:
    """One line of the report. A finding with `advice` is a problem if `bad`, and worth knowing otherwise."""

    name: str
    text: str
    advice: str = ""
    bad: bool = False


def ask(*words: str) -> str | None:
    """What a program prints; None if it cannot be run, fails or says nothing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=PATIENCE,
                              stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def version(distribution: str) -> str | None:
    """The installed version of a distribution; None if it is not there."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def first(words: Sequence[str]) -> str:
    """The first distribution of these that is installed, with its version; empty if none is."""
    return next((f"{word} {found}" for word in words if (found := version(word))), "")
