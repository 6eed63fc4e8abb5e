"""Keeping results: JSON lines appended to a file while they are printed, and a picture of training steps."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

__all__ = ["draw_steps", "read", "recorded"]


class _Copy(io.TextIOBase):
    """Standard output, whose JSON lines are written to a file as well."""

    def __init__(self, out: TextIO, file: TextIO) -> None:
        self._out = out
        self._file = file
        self._line = ""

    def write(self, text: str) -> int:
        self._out.write(text)
        *complete, self._line = (self._line + text).split("\n")
        self._file.writelines(f"{line}\n" for line in complete if line.startswith("{"))
        return len(text)

    def flush(self) -> None:
        self._out.flush()
        self._file.flush()


@contextmanager
def recorded(path: str | None) -> Iterator[None]:
    """Append what is printed inside as JSON lines to this file, if one is given.

    Raises:
        OSError: the file cannot be written.
    """
    if path is None:
        yield
        return
    with open(path, "a") as file, redirect_stdout(_Copy(sys.stdout, file)):
        yield


def read(path: str, begin: int = 0) -> list[dict[str, Any]]:
    """The JSON lines of a file, from a position in bytes on."""
    return [json.loads(line) for line in Path(path).read_bytes()[begin:].splitlines()]


def draw_steps(path: str, lines: Sequence[dict[str, Any]]) -> None:
    """Bars of whole training steps with their quartiles: a column for each workload, a row for each number of ranks.

    Args:
        lines: what `bench step` printed; needs matplotlib.
    """
    from matplotlib.figure import Figure

    lines = [line for line in lines if line.get("part") == "total"]
    rows = sorted({line["ranks"] for line in lines})
    columns = list(dict.fromkeys(line["workload"] for line in lines))
    names = list(dict.fromkeys(line["name"] for line in lines))
    figure = Figure(figsize=(max(4.5, 1.5 + 1.6 * len(columns)), 0.8 + 2.4 * len(rows)), layout="constrained")
    planes = figure.subplots(len(rows), len(columns), squeeze=False)
    for ranks, row in zip(rows, planes, strict=True):
        row[0].set_ylabel(f"{ranks} rank{'s' * (ranks > 1)}, step [ms]")
        for workload, axes in zip(columns, row, strict=True):
            for line in lines:
                if (line["ranks"], line["workload"]) == (ranks, workload):
                    _bar(axes, names.index(line["name"]), line)
            axes.set(title=workload, xticks=[])
            axes.margins(y=0.15)
    handles = {label: bar for axes in planes.flat for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    figure.savefig(path, dpi=120)


def _bar(axes: Any, place: int, line: dict[str, Any]) -> None:
    median, low, high = (line[name] / line["scale"] for name in ("median", "low", "high"))
    bar = axes.bar(place, median, yerr=[[median - low], [high - median]], color=f"C{place}", label=line["name"])
    axes.bar_label(bar, fmt="%.3g", fontsize="small")
