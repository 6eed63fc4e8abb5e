"""Imports go down the layers only, and layers on one line do not see each other."""

from __future__ import annotations

from collections.abc import Iterator

from .sources import Import, Source, sources

# Names on one line, top layer first, as in the README; what stands on one line is mutually blind.
LAYERS = (
    ("cli",),
    ("bench", "checkpoint", "profile", "testing"),
    ("distributed",),
    ("nn", "optim", "data"),
    ("autograd", "functions", "linalg", "utils", "cuda"),
    ("_tensor",),  # not `tensor`, which is the function that makes one
    ("ops",),
    ("graph", "comm", "flat"),
    ("backend",),
    ("tracing", "errors", "config", "_typing"),
)
HEIGHT = {name: len(LAYERS) - row for row, names in enumerate(LAYERS) for name in names}
# The package's front door re-exports everything, and may be imported by what a user starts.
FRONT_DOOR = ("distgrad", "distgrad.__main__")
WITHOUT_COMM = {"ops", "_tensor", "autograd", "nn", "optim", "data"}


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def targets(item: Import) -> Iterator[str]:
    """The distgrad modules that an import reaches; `from distgrad import nn` reaches distgrad.nn."""
    if item.module == "distgrad":
        yield from (f"distgrad.{name}" if name in HEIGHT else "distgrad" for name in item.names or ("",))
    elif item.module.startswith("distgrad."):
        yield item.module


def offence(source: Source, target: str) -> str | None:
    here, there = layer(source.module), layer(target)
    if here == there:
        return None
    if not there:
        return None if HEIGHT[here] == HEIGHT["cli"] else "imports the front door `distgrad`, which imports it"
    if there not in HEIGHT:
        return f"imports {there}, which is in no layer"
    if there == "comm" and here in WITHOUT_COMM:
        return f"{here} must not know of ranks"
    if HEIGHT[there] > HEIGHT[here]:
        return f"{here} imports up, from {there}"
    return f"{here} and {there} are siblings" if HEIGHT[there] == HEIGHT[here] else None


def test_every_module_is_in_a_layer() -> None:
    strangers = [source.path for source in sources()
                 if source.module not in FRONT_DOOR and layer(source.module) not in HEIGHT]
    assert not strangers, f"in no layer of the architecture: {strangers}"


def test_imports_go_down() -> None:
    offenders = [f"{source.at(item.line)}: {why} ({target})"
                 for source in sources() if source.module not in FRONT_DOOR
                 for item in source.imports() for target in targets(item)
                 if layer(source.module) in HEIGHT and (why := offence(source, target))]
    assert not offenders, "\n" + "\n".join(offenders)
