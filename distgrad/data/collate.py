"""How samples become a batch: tensors of one more dimension, in the samples' own structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._tensor.creation import from_numpy
from ..graph.base import TensorBase
from ..ops.join import stack
from .pin import room
from .rows import Parallel, Rows

__all__ = ["default_collate", "default_convert"]


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack samples along a new first dimension.

    Tensors and numpy arrays become tensors (batch, *shape); Python numbers become (batch,) tensors of
    int64, float64, complex128 or bool; strings a list; mappings a dict of batches; tuples and lists a
    list of batches, named tuples their own type.

    Raises:
        RuntimeError: samples of different shapes or lengths.
        TypeError: a type that it does not know, or samples of different types.
        ValueError: no samples.
    """
    if not len(batch):
        raise ValueError("default_collate: a batch has at least one sample, got none")
    if isinstance(batch, Rows):
        return batch.batch
    if isinstance(batch, Parallel):
        columns = [default_collate(part) for part in batch.parts]
        return columns if batch.names is None else dict(zip(batch.names, columns))
    first = batch[0]
    if isinstance(first, TensorBase):
        _require_same("kinds", batch, lambda sample: "tensor" if isinstance(sample, TensorBase)
                      else type(sample).__name__, TypeError)
        _require_same("shapes", batch, lambda sample: tuple(sample.shape), RuntimeError)
        return _stacked(batch)
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, (np.ndarray, np.generic)):
        _require_same("shapes", batch, np.shape, RuntimeError)
        return _stacked(batch)
    if isinstance(first, (int, float, complex)):
        return from_numpy(np.array(batch))
    if isinstance(first, Mapping):
        _require_same("keys", batch, lambda sample: set(sample), RuntimeError)
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, Sequence):
        _require_same("lengths", batch, len, RuntimeError)
        parts = [default_collate(column) for column in zip(*batch)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    raise TypeError(f"default_collate stacks tensors, arrays, numbers, strings, mappings and sequences, not "
                    f"{type(first).__name__}; pass a collate_fn of your own")


def default_convert(sample: Any) -> Any:
    """One sample without a batch dimension: numpy arrays become tensors, the structure stays."""
    if isinstance(sample, (np.ndarray, np.generic)) and sample.dtype.kind in "biufc":
        return from_numpy(np.asarray(sample))
    if isinstance(sample, Mapping):
        return {key: default_convert(value) for key, value in sample.items()}
    if hasattr(sample, "_fields"):
        return type(sample)(*map(default_convert, sample))
    if isinstance(sample, (tuple, list)):
        return type(sample)(map(default_convert, sample))
    return sample


def _stacked(batch: Sequence[Any]) -> Any:
    """Tensors or arrays of one shape as one tensor, straight in pinned memory where that is wanted."""
    tensors = isinstance(batch[0], TensorBase)
    arrays = [sample.array for sample in batch] if tensors else batch
    plain = not tensors or not any(sample.requires_grad or not isinstance(sample.array, np.ndarray) for sample in batch)
    dtypes = {array.dtype for array in arrays}
    out = room((len(batch), *arrays[0].shape), dtypes.pop()) if plain and len(dtypes) == 1 else None
    if out is not None:
        return from_numpy(np.stack(arrays, out=out))
    return stack(list(batch)) if tensors else from_numpy(np.stack(batch))


def _require_same(what: str, batch: Sequence[Any], of: Any, error: type[Exception]) -> None:
    """Raise `error` unless `of(sample)` is the same for all samples; says which one differs first."""
    expected = of(batch[0])
    for position, sample in enumerate(batch):
        found = of(sample)
        if found != expected:
            raise error(f"default_collate: samples of one batch have different {what}: sample 0 has {expected}, "
                        f"sample {position} has {found}")
