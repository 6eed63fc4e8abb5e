"""Join: ranks whose data ends at different times, without padding and without a rank that waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from .parallel import DataParallel

__all__ = ["Join"]


class Join:
    """Around a training loop: a rank that has left the loop goes on taking part until all have left it.

    Example::

        def update():
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        def without_data():
            model.backward(None, weight=0)
            update()

        with Join(model, without_data):
            for x, y in shard:
                model.backward(loss(model(x), y), weight=len(x))
                update()

    A rank without data weighs nothing, so every step has the exact mean over the data that there was, and
    parameters, optimizer state and norms stay the same on all ranks. When all have left, one last round in
    which nobody has a gradient tells them so.

    Args:
        models: one DataParallel, or several.
        without_data: does once what the body of the loop does, with `model.backward(None, weight=0)` for each of
            its backwards.

    Raises:
        TypeError: something else than DataParallel models.
        RankFailedError: the loop calls `loss.backward()`, which has no weight, instead of `model.backward`.
    """

    def __init__(self, models: DataParallel | Sequence[DataParallel], without_data: Callable[[], object]) -> None:
        self.models: list[DataParallel] = list(models) if isinstance(models, Sequence) else [models]
        for model in self.models:
            if not isinstance(model, DataParallel):
                raise TypeError(f"Join takes DataParallel models, got {type(model).__name__}")
        self.without_data = without_data

    def __enter__(self) -> Join:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        if error is not None:
            return
        for model in self.models:
            model.out_of_data = True
        try:
            while True:
                self.without_data()
                if all(model.all_out_of_data for model in self.models):
                    return
        finally:
            for model in self.models:
                model.out_of_data = False
