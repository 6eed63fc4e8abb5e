"""Random programs over small tensors: views, in-place writes, broadcasts, reuse. Bytes in, Python source out.

Shapes, memory sharing and contiguity are tracked while a program is written, so that no statement is one that
autograd has to refuse. What may still happen is that a write changes a value that backward needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Program", "compiled"]

SHAPES = ((2, 3), (3,), (1, 3), (2, 1), ())
SMOOTH = ("{a}.sin()", "{a}.tanh()", "{a}.sigmoid()", "{a} * 0.7", "{a} * {a}", "-{a}", "{a}.cos() + {a}",
          "({a} * 0.5).exp()", "1.5 - {a}", "{a} / 3", "{a}.square()")
PAIRS = ("{a} + {b}", "{a} * {b}", "{a} - {b}", "{a} / ({b} * {b} + 1)", "{a} * {b}.sin()")
WRITES = ("{a}.add_({b})", "{a}.mul_({b})", "{a}.sub_({b}, alpha=2)", "{a}.copy_({b})", "{a}[...] = {b}")
LONE_WRITES = ("{a}.mul_(0.5)", "{a}.add_(1)", "{a}.sin_()", "{a}.tanh_()", "{a}.zero_()", "{a}.neg_()",
    "{a}.fill_(0.3)")

Shape = tuple[int, ...]


class _Register:
    """What is known of a tensor: its shape, whether it may be written to, whether it is in C order."""

    def __init__(self, name: str, shape: Shape, *, writable: bool, ordered: bool) -> None:
        self.name, self.shape, self.writable, self.ordered = name, shape, writable, ordered


class Program:
    """Source of a function of (lib, r0, r1, ...) that returns the registers, made from bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = iter(data)
        self.lines: list[str] = []
        self.registers = [_Register(f"r{i}", SHAPES[self.byte() % len(SHAPES)], writable=False, ordered=True)
                          for i in range(2)]
        self.leaves = [register.shape for register in self.registers]
        for code in self.data:
            kind = code % 16
            if kind < 4:
                self.smooth()
            elif kind < 7:
                self.pair()
            elif kind < 12:
                self.view()
            elif kind < 14:
                self.write()
            elif kind == 14:
                self.write_alone()
            else:
                self.reduce()

    @property
    def source(self) -> str:
        """The program as text."""
        names = ", ".join(register.name for register in self.registers)
        arguments = ", ".join(f"r{i}" for i in range(len(self.leaves)))
        body = "\n".join(f"    {line}" for line in self.lines)
        return f"def program(lib, {arguments}):  # leaves {self.leaves}\n{body}\n    return [{names}]\n"

    def byte(self) -> int:
        return next(self.data, 0)

    def choose(self, choices: Any) -> Any:
        return choices[self.byte() % len(choices)]

    def new(self, text: str, shape: Shape, *, writable: bool = True, ordered: bool = True) -> None:
        name = f"r{len(self.registers)}"
        self.registers.append(_Register(name, shape, writable=writable, ordered=ordered))
        self.lines.append(f"{name} = {text}")

    def smooth(self) -> None:
        a = self.choose(self.registers)
        self.new(self.choose(SMOOTH).format(a=a.name), a.shape, ordered=a.ordered)

    def pair(self) -> None:
        a = self.choose(self.registers)
        fitting = [b for b in self.registers if _together(a.shape, b.shape) is not None]
        b = self.choose(fitting)
        shape = _together(a.shape, b.shape)
        assert shape is not None
        self.new(self.choose(PAIRS).format(a=a.name, b=b.name), shape, ordered=a.ordered and b.ordered)

    def reduce(self) -> None:
        a = self.choose([a for a in self.registers if a.shape] or [None])
        if a is not None:
            dim = self.byte() % len(a.shape)
            keep = self.byte() % 2
            shape = tuple(1 if i == dim else n for i, n in enumerate(a.shape) if keep or i != dim)
            self.new(f"{a.name}.{self.choose(('sum', 'mean'))}({dim}, {bool(keep)})", shape, ordered=len(shape) < 2)

    def view(self) -> None:
        a = self.choose(self.registers)
        dims = len(a.shape)
        choices: list[tuple[str, Shape, bool, bool]] = []  # text, shape, may be written to, in C order
        if dims < 3:
            choices.append((f"{a.name}.unsqueeze({dims})", (*a.shape, 1), a.writable, a.ordered))
            choices.append((f"{a.name}[None]", (1, *a.shape), a.writable, a.ordered))
        if dims >= 2:
            choices.append((f"{a.name}.transpose(0, 1)", (a.shape[1], a.shape[0], *a.shape[2:]), a.writable, False))
            choices.append((f"{a.name}[:, -1]", (a.shape[0], *a.shape[2:]), a.writable, False))
        if dims == 2:
            choices.append((f"{a.name}.diagonal()", (min(a.shape),), a.writable, False))
            if a.ordered:
                choices.append((f"{a.name}.view(-1)", (a.shape[0] * a.shape[1],), a.writable, True))
        if dims:
            n = a.shape[0]
            choices.append((f"{a.name}[0]", a.shape[1:], a.writable, a.ordered))
            choices.append((f"{a.name}[::2]", ((n + 1) // 2, *a.shape[1:]), a.writable, False))
            choices.append((f"{a.name}.unbind(0)[{n - 1}]", a.shape[1:], False, a.ordered))
            choices.append((f"{a.name}.flip(0)", a.shape, True, False))
            if n > 1:
                choices.append((f"{a.name}[1:]", (n - 1, *a.shape[1:]), a.writable, a.ordered))
                choices.append((f"{a.name}.split(1)[1]", (1, *a.shape[1:]), False, a.ordered))
        if dims < 2:
            choices.append((f"{a.name}.expand(2, {', '.join(map(str, a.shape)) or 1})",
                            (2, *(a.shape or (1,))), False, False))
        text, shape, writable, ordered = self.choose(choices)
        self.new(text, shape, writable=writable, ordered=ordered)

    def write(self) -> None:
        targets = [a for a in self.registers if a.writable]
        if targets:
            a = self.choose(targets)
            b = self.choose([b for b in self.registers if _together(a.shape, b.shape) == a.shape])
            self.lines.append(self.choose(WRITES).format(a=a.name, b=b.name))

    def write_alone(self) -> None:
        targets = [a for a in self.registers if a.writable]
        if targets:
            self.lines.append(self.choose(LONE_WRITES).format(a=self.choose(targets).name))


def _together(a: Shape, b: Shape) -> Shape | None:
    """The shape of two that broadcast."""
    n = max(len(a), len(b))
    long_a, long_b = (1,) * (n - len(a)) + a, (1,) * (n - len(b)) + b
    if any(x != y and 1 not in (x, y) for x, y in zip(long_a, long_b)):
        return None
    return tuple(max(x, y) for x, y in zip(long_a, long_b))


def compiled(source: str) -> Callable[..., list[Any]]:
    """The function that a program's source defines."""
    names: dict[str, Any] = {}
    exec(compile(source, "<program>", "exec"), names)
    function: Callable[..., list[Any]] = names["program"]
    return function
