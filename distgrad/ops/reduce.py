"""Reductions by name: sums and norms from `sums`, extremes and medians from `extremum`."""

from __future__ import annotations

from .extremum import amax, amin, aminmax, argmax, argmin, max, median, min
from .sums import all, any, count_nonzero, logsumexp, mean, nansum, norm, prod, std, sum, sum_to_size, var, vector_norm

__all__ = ["all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "count_nonzero", "logsumexp", "max", "mean",
           "median", "min", "nansum", "norm", "prod", "std", "sum", "sum_to_size", "var", "vector_norm"]
