"""Batch norm: normalises over the batch in training, by running statistics in evaluation.

Under data parallelism each rank sees its own batch, as in torch; statistics are no collective here.
"""

from __future__ import annotations

from typing import Any

from .._tensor.creation import ones, tensor, zeros
from ..graph.guard import writable
from ..graph.modes import no_grad
from ..ops.normalize import batch_norm
from .normalization import _Affine

__all__ = ["BatchNorm1d", "BatchNorm2d"]


class _BatchNorm(_Affine):
    """(x - mean) / sqrt(var + eps) * weight + bias for each channel, dimension 1 (Ioffe and Szegedy, 2015).

    Args:
        num_features: channels.
        momentum: running = (1 - momentum) * running + momentum * observed; None averages all batches.
        affine: whether there are weight and bias.
        track_running_stats: without, the batch's own statistics serve in evaluation too.
    """

    _dimensions: tuple[int, ...]

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._add_affine((num_features,), affine, affine, device, dtype)
        tracked = track_running_stats
        self.register_buffer("running_mean", zeros(num_features, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("running_var", ones(num_features, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", tensor(0, device=device) if tracked else None)

    def reset_running_stats(self) -> None:
        """Set mean 0, variance 1 and no batches seen."""
        if self.track_running_stats:
            with no_grad():
                self.running_mean.zero_()
                self.running_var.fill_(1)
                self.num_batches_tracked.zero_()

    def forward(self, input: Any) -> Any:
        if input.ndim not in self._dimensions:
            raise ValueError(f"{self._get_name()}: the input has {' or '.join(map(str, self._dimensions))} dimensions, "
                             f"got shape {tuple(input.shape)}")
        momentum = self.momentum
        tracked = self.running_mean is not None
        if self.training and tracked:
            count = self.num_batches_tracked.array
            with writable(count):
                count += 1
            self.num_batches_tracked.bump()
            if momentum is None:
                momentum = 1 / self.num_batches_tracked.array.item()
        own = self.training or not tracked
        moving = not self.training or self.track_running_stats
        return batch_norm(input, self.running_mean if moving else None, self.running_var if moving else None,
                          self.weight, self.bias, own, momentum or 0.0, self.eps)

    def extra_repr(self) -> str:
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}")


class BatchNorm1d(_BatchNorm):
    """Batch norm over (N, C) or (N, C, L)."""

    _dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch norm over (N, C, H, W)."""

    _dimensions = (4,)
