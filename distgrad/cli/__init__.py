"""The command line: `distgrad run`, `distgrad job`, `distgrad doctor`, `distgrad bench`.

It owns the words that a user types and the exit codes that a script reads. Nothing below knows of
it. A new command is a module here with one function under `@command`, named in `_MODULES`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from distgrad.cli.registry import CommandError, commands

__all__ = ["main"]

_MODULES = ("run", "job", "doctor", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 2 a command that was mistyped or cannot run here."""
    for name in _MODULES:
        importlib.import_module(f"distgrad.cli.{name}")
    parser = argparse.ArgumentParser(prog="distgrad", description="Train on one rank or many.")
    parser.add_argument("--version", action="version", version=f"distgrad {_version()}")
    choices = parser.add_subparsers(dest="command", metavar="command")
    for command in commands.values():
        command.configure(choices.add_parser(command.name, help=command.summary, description=command.description,
                                             formatter_class=argparse.RawDescriptionHelpFormatter))
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return commands[args.command].action(args)
    except CommandError as error:
        print(f"distgrad {args.command}: {error}", file=sys.stderr)
        return 2


def _version() -> str:
    try:
        return importlib.metadata.version("distgrad")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed: used from its source tree)"
