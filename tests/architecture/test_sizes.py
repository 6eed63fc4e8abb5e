"""No file grows past what can be read in one sitting."""

from __future__ import annotations

import warnings

from .sources import ROOT, sources

SOFT, HARD = 300, 400
EXAMPLE = 200


def test_files_stay_readable() -> None:
    lines = {source.path: source.text.count("\n") for source in sources()}
    large = sorted((path for path, count in lines.items() if count > SOFT), key=lambda path: -lines[path])
    listing = ", ".join(f"{path} ({lines[path]})" for path in large)
    if large:
        warnings.warn(f"over {SOFT} lines: {listing}", stacklevel=1)
    assert not [path for path in large if lines[path] > HARD], f"over {HARD} lines: {listing}"


def test_examples_are_short() -> None:
    long = [path.name for path in (ROOT / "examples").rglob("*.py") if path.read_text().count("\n") >= EXAMPLE]
    assert not long, f"an example has fewer than {EXAMPLE} lines: {long}"
