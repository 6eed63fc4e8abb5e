"""Random streams. One stream per context: simulated ranks each have their own, a process has one.

Drawn on the host, so that a seed means the same numbers on every device.
"""

from __future__ import annotations

import secrets
from contextvars import ContextVar
from typing import Any

import numpy as np

__all__ = ["Generator", "default_generator", "use_generator"]


class Generator:
    """A seedable stream of random numbers, with torch's method names."""

    def __init__(self, seed: int | None = None) -> None:
        self.manual_seed(secrets.randbits(63) if seed is None else seed)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream again from `seed`; a negative seed counts from 2**64, as in torch."""
        if not -(1 << 63) <= seed < (1 << 64):
            raise RuntimeError(f"a seed lies in [-2**63, 2**64), got {seed}")
        self._seed = seed % (1 << 64)
        self.numpy = np.random.Generator(np.random.PCG64(self._seed))
        return self

    def initial_seed(self) -> int:
        """The seed from which the stream began."""
        return self._seed

    def get_state(self) -> dict[str, Any]:
        """The stream's position, of JSON types only."""
        return {"seed": self._seed, "stream": dict(self.numpy.bit_generator.state)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a position that `get_state` gave.

        Raises:
            RuntimeError: the state is not one of this kind of stream.
        """
        try:
            seed, stream = state["seed"], state["stream"]
            if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
                raise ValueError(f"its seed is {str(seed)[:50]}")
            self.numpy.bit_generator.state = stream
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise RuntimeError(f"not a state of a PCG64 stream: {error}") from None
        self._seed = seed


_process = Generator()
_current: ContextVar[Generator | None] = ContextVar("distgrad_generator", default=None)


def default_generator() -> Generator:
    """The stream of this context."""
    return _current.get() or _process


def use_generator(generator: Generator) -> None:
    """Make `generator` the stream of the current context (a simulated rank's thread)."""
    _current.set(generator)
