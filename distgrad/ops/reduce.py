"""Reductions by name: sums from `sums`, variances and norms from `moments`, extremes from `extremum`."""

from __future__ import annotations

from .extremum import amax, amin, aminmax, argmax, argmin, max, median, min
from .moments import logsumexp, norm, std, var, vector_norm
from .sums import all, any, count_nonzero, mean, nansum, prod, sum, sum_to_size

__all__ = ["all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "count_nonzero", "logsumexp", "max", "mean",
           "median", "min", "nansum", "norm", "prod", "std", "sum", "sum_to_size", "var", "vector_norm"]
