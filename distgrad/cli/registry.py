"""The table of commands, and the decorator that fills it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Command", "CommandError", "command", "commands"]

Action = Callable[[argparse.Namespace], int]
Configure = Callable[[argparse.ArgumentParser], None]


class CommandError(Exception):
    """A command that cannot be carried out as typed; its text is all that the user needs to read."""


@dataclass(frozen=True)
class Command:
    """One word after `distgrad`: `configure` adds its options to a parser, `action` runs it."""

    name: str
    summary: str
    description: str
    configure: Configure
    action: Action


commands: dict[str, Command] = {}


def command(name: str, configure: Configure) -> Callable[[Action], Action]:
    """Register the decorated function as `distgrad name`; its docstring is the command's help."""

    def register(action: Action) -> Action:
        description = action.__doc__ or ""
        commands[name] = Command(name, description.split("\n", 1)[0].rstrip("."), description, configure, action)
        return action

    return register
