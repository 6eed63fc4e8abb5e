"""Which models one backward reduces, and in which order: one total order, the same on every rank.

A session is the outermost backward of a thread. It includes the models that ran forward in grad mode
since their last reduction, and those whose leaves it reaches; buckets leave in the order (creation of
the model, bucket), so that two models never wait for each other.
"""

from __future__ import annotations

import threading
from typing import Any

from ..flat import Placement
from ..graph.engine import Run, before_next_backward, current_run, queue_callback
from .reducer import Reducer

__all__ = ["announce", "arrived", "reduce_nothing", "watch"]


class _Thread(threading.local):
    def __init__(self) -> None:
        self.watching = False
        self.announced: set[Reducer] = set()
        self.run: Run | None = None
        self.reducers: list[Reducer] = []


_thread = _Thread()


def watch() -> None:
    """This thread's backwards begin here, so that one which raises before it reaches a model is heard of as well."""
    if not _thread.watching:
        _thread.watching = True
        before_next_backward(_start)


def announce(reducer: Reducer) -> None:
    """The model ran forward in grad mode: this thread's next backward reduces it."""
    watch()
    _thread.announced.add(reducer)


def arrived(reducer: Reducer, placement: Placement) -> None:
    """A parameter's gradient was accumulated. The engine's last hook on every wrapped leaf."""
    run = current_run()
    while run is not None and run.outer is not None:
        run = run.outer
    if run is not None and _thread.run is not run:
        _begin(run)
    if reducer not in _thread.reducers:
        return
    reducer.arrived(placement)
    if reducer.overlap:
        _advance()


def _start(run: Run) -> None:
    _thread.watching = False
    watch()
    _begin(run)


def _begin(run: Run) -> None:
    """The outermost backward begins (or reaches its first wrapped leaf)."""
    _thread.reducers = []
    if run.accumulate is not None and not run.accumulate:  # autograd.grad: it accumulates nothing
        return
    concerned = _thread.announced | _owners(run)
    if not concerned:
        return
    _thread.run = run
    _thread.announced = set()
    _thread.reducers = sorted((r for r in concerned if r.sync), key=lambda r: r.index)
    run.reactions.append(_abandon)
    queue_callback(_finish)
    problem = None
    for reducer in _thread.reducers:
        try:
            reducer.begin(run)
        except RuntimeError as error:  # all of them begin, so that all can take part in what follows
            problem = error
    if problem is not None:
        raise problem


def reduce_nothing(reducer: Reducer) -> None:
    """This rank has no loss: take part in the reduction of the others' gradients, with weight 0."""
    reducer.begin(None)
    reducer.launch_rest()
    reducer.finish()


def _owners(run: Run) -> set[Reducer]:
    """The reducers of the leaves that this backward reaches."""
    found: set[Any] = set()
    for leaf in run.leaves:
        hooks = leaf.hooks
        if hooks is not None and hooks.last is not None:
            found.add(hooks.last.reducer)
    return found


def _advance() -> None:
    """Launch what is ready, the models in their order."""
    for reducer in _thread.reducers:
        if not reducer.advance():
            return


def _abandon(error: Exception) -> None:
    """This rank's backward raised: nobody is left waiting for it."""
    reducers, _thread.reducers = _thread.reducers, []
    _thread.run = None
    for reducer in reducers:
        reducer.abandon(error)


def _finish() -> None:
    """Backward has ended: launch the rest, then wait and hand out the means."""
    reducers, _thread.reducers = _thread.reducers, []
    _thread.run = None
    for reducer in reducers:
        reducer.launch_rest()
    problem: Exception | None = None
    for reducer in reducers:
        try:
            reducer.finish()
        except Exception as error:  # the other models' buckets are on their way, and other ranks wait for them
            problem = problem or error
    if problem is not None:
        raise problem
