"""Benchmarks that a user can run: `distgrad bench NAME`. Each measures in one process, interleaved with its peer."""

__all__: list[str] = []
