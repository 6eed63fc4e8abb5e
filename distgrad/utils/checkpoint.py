"""Checkpointing: memory for time. What a function saves for backward is let go and computed again.

Built on saved-tensor hooks: in forward each saved tensor leaves a placeholder behind; the first one
that backward asks for runs the function again, and what it saves then stands in for the others. The
graph is the one that forward recorded, so hooks, several backwards and nesting work as without it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from .._tensor.core import Tensor
from ..backend.random import default_generator
from ..errors import DistgradError
from ..graph.base import wrap
from ..graph.engine import Run, current_run
from ..graph.extras import record_extras
from ..graph.modes import enable_grad, is_grad_enabled, state
from ..graph.node import Node
from ..graph.packing import saved_tensors_hooks
from ..graph.saved import note_versions, unpack
from .fingerprint import Fingerprint

__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential"]

_CHECKS = ("default", "metadata", "none")


class CheckpointError(DistgradError):
    """The second run of a checkpointed function saved other tensors than the first."""


def checkpoint(function: Callable[..., Any], *args: Any, use_reentrant: bool = False, preserve_rng_state: bool = True,
               determinism_check: str = "default", early_stop: bool = True, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, keeping its inputs for backward instead of what it computes on the way.

    Backward runs the function once more, up to the last tensor that it needs.

    Args:
        use_reentrant: must be False. The other kind, which torch still has, is not needed.
        preserve_rng_state: the second run draws the same numbers from distgrad's stream (dropout).
        determinism_check: 'default' compares shapes, dtypes and a checksum of the values of the two runs;
            'metadata' leaves out the values, which saves one pass over each saved tensor in either run;
            'none' compares only how many tensors there are.
        early_stop: False runs the function to its end every time.

    Raises:
        ValueError: use_reentrant is True, or another determinism_check.
        CheckpointError: (in backward) the second run saved other tensors than the first: the function is
            not deterministic, or something that it reads has changed since, as a parameter.
    """
    if use_reentrant:
        raise ValueError("checkpoint: use_reentrant=True is not needed here and not supported; leave it out. The one "
                         "kind there is takes keyword arguments, nests, and works with autograd.grad")
    if determinism_check not in _CHECKS:
        raise ValueError(f"checkpoint: determinism_check is one of {_CHECKS}, got {determinism_check!r}")
    if not is_grad_enabled():
        return function(*args, **kwargs)
    call = _Call(function, args, kwargs, preserve_rng_state, determinism_check, early_stop)
    with saved_tensors_hooks(call.pack, call.unpack):
        return function(*args, **kwargs)


def checkpoint_sequential(functions: Iterable[Callable[..., Any]], segments: int, input: Any, *,
                          use_reentrant: bool = False, preserve_rng_state: bool = True, **kwargs: Any) -> Any:
    """Run functions one after the other, checkpointing them in `segments` groups.

    The last group is not checkpointed: backward would run it again at once.

    Args:
        functions: a Sequential module, or functions of one argument.
        segments: number of groups, at most the number of functions.
        Others: as in `checkpoint`.

    Raises:
        ValueError: segments is not between 1 and the number of functions.
    """
    steps = list(functions)
    if not 1 <= segments <= len(steps):
        raise ValueError(f"checkpoint_sequential: {len(steps)} functions cannot be cut into {segments} segments")
    size = len(steps) // segments
    last = size * (segments - 1)
    for start in range(0, last, size):
        input = checkpoint(_Chain(steps[start:start + size]), input, use_reentrant=use_reentrant,
                           preserve_rng_state=preserve_rng_state, **kwargs)
    return _Chain(steps[last:])(input)


class _Chain:
    """Functions one after the other as one."""

    def __init__(self, steps: list[Callable[..., Any]]) -> None:
        self.steps = steps

    def __call__(self, x: Any) -> Any:
        for step in self.steps:
            x = step(x)
        return x


class _Inputs:
    """The rule of the node that keeps a call's tensor arguments; it has no gradient of its own."""

    name = "CheckpointInputs"


class _Enough(BaseException):
    """Ends a second run; no Exception, so that the function does not catch it."""

    def __init__(self, call: _Call) -> None:
        self.call = call


class _Placeholder:
    """Stands in the graph where a saved tensor would be."""

    __slots__ = ("__weakref__", "call", "number")

    def __init__(self, call: _Call, number: int) -> None:
        self.call = call
        self.number = number

    def held_arrays(self) -> list[Any]:
        """What stays in memory for it: the inputs of the call."""
        return self.call.held_arrays()


class _Call:
    """One checkpointed call: how to run it again, and the placeholders that wait for it.

    The placeholders are owned by the graph. When it frees them, what was computed for them goes too,
    and with the last one the call itself and its inputs.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
                 preserve_rng_state: bool, check: str, early_stop: bool) -> None:
        self.function, self.check, self.early_stop = function, check, early_stop
        self.random = default_generator().get_state() if preserve_rng_state else None
        # Tensors are saved as an operation saves them, so an enclosing checkpoint (or any other hook) gets to
        # pack them and a later in-place change is noticed. The rest is kept as it is.
        values = [*args, *kwargs.values()]
        self.tensors = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
        self.others = [None if isinstance(value, Tensor) else value for value in values]
        self.names = tuple(kwargs)
        self.inputs = Node(_Inputs, (), tuple(values[i] for i in self.tensors))
        note_versions(self.inputs)
        record_extras(self.inputs, state.flags, ())
        self.placeholders: list[weakref.ref[_Placeholder]] = []
        self.fingerprints: list[Fingerprint] = []
        self.recomputed: weakref.WeakKeyDictionary[Run, Any] = weakref.WeakKeyDictionary()

    def held_arrays(self) -> list[Any]:
        """The tensor arguments' arrays, where no other hook has packed them."""
        return [t.array for t in self.inputs.values if isinstance(t, Tensor)]

    def pack(self, t: Tensor) -> _Placeholder:
        """In forward: a placeholder for a tensor that an operation saves."""
        made = _Placeholder(self, len(self.placeholders))
        self.placeholders.append(weakref.ref(made))
        if self.check != "none":
            self.fingerprints.append(Fingerprint(t.array, self.check == "default"))
        return made

    def unpack(self, wanted: _Placeholder) -> Tensor:
        """In backward: the tensor, from this backward's second run of the function."""
        run = current_run()
        found = None if run is None else self.recomputed.get(run)
        t = None if found is None else found.get(wanted)
        if t is None:
            found = self._run_again()
            if run is not None:
                self.recomputed[run] = found
            t = found[wanted]
        if run is None or run.retain:
            del found[wanted]  # the graph will not free the placeholder, so memory is freed here
        if self.fingerprints and not self.fingerprints[wanted.number].same_content(t.array):
            raise CheckpointError(
                f"checkpoint: run again, {self._name()} computed other values for the tensor it saves as number "
                f"{wanted.number} ({self.fingerprints[wanted.number]}). It is not deterministic, or something that it "
                "reads has changed since forward (a parameter, a buffer, a random stream other than distgrad's). The "
                "gradient would be wrong; determinism_check='metadata' lets it pass")
        return t

    def _run_again(self) -> weakref.WeakKeyDictionary[_Placeholder, Tensor]:
        """The tensors that a second run saves, for the placeholders that are still there."""
        found: weakref.WeakKeyDictionary[_Placeholder, Tensor] = weakref.WeakKeyDictionary()
        waiting = [reference() for reference in self.placeholders]
        last = max(i for i, placeholder in enumerate(waiting) if placeholder is not None)
        count = 0

        def take(t: Tensor) -> Tensor:
            nonlocal count
            number, count = count, count + 1
            kept: Tensor = wrap(t.array)
            if number < len(waiting):
                self._compare(number, t)
                if waiting[number] is not None:
                    found[waiting[number]] = kept
            if self.early_stop and number >= last:
                raise _Enough(self)
            return kept

        with enable_grad():
            args, kwargs = self._arguments()
            random = nullcontext() if self.random is None else _stream_at(self.random)
            try:
                with random, saved_tensors_hooks(take, lambda kept: kept):
                    self.function(*args, **kwargs)
            except _Enough as enough:
                if enough.call is not self:
                    raise
                return found
        if count != len(waiting):
            raise CheckpointError(f"checkpoint: run again, {self._name()} saved {count} tensors for backward, the "
                                  f"first time {len(waiting)}: it took another path")
        return found

    def _compare(self, number: int, t: Tensor) -> None:
        if self.fingerprints and not self.fingerprints[number].same_kind(t.array):
            raise CheckpointError(
                f"checkpoint: run again, {self._name()} saves as number {number} a tensor of "
                f"{Fingerprint(t.array, content=False)}, the first time it had {self.fingerprints[number]}")

    def _arguments(self) -> tuple[list[Any], dict[str, Any]]:
        values = list(self.others)
        for i, t in zip(self.tensors, unpack(self.inputs), strict=True):
            values[i] = t
        positional = len(values) - len(self.names)
        return values[:positional], dict(zip(self.names, values[positional:], strict=True))

    def _name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)


@contextmanager
def _stream_at(position: dict[str, Any]) -> Iterator[None]:
    """The random stream set back for the length of the body."""
    stream = default_generator()
    before = stream.get_state()
    stream.set_state(position)
    try:
        yield
    finally:
        stream.set_state(before)
