"""Measuring: interleaved rounds, medians with spread, a table and JSON lines.

Rounds are interleaved (A B C, A B C, ...) so that what else the machine does meets all of them alike.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

__all__ = ["Sample", "interleaved", "measure", "show", "summarize"]


@dataclass(frozen=True)
class Sample:
    """Times of one contestant, in microseconds."""

    name: str
    median: float
    low: float    # the lower quartile
    high: float   # the upper quartile
    rounds: int


def measure(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3,
            before: Callable[[], object] = lambda: None, lead: int = 0) -> dict[str, list[float]]:
    """Call each contestant once a round, in turn, `before()` each call; the calls' times in microseconds.

    With `lead`, so many calls that are not timed go before each that is: what the others left in the caches does
    not count then.
    """
    for _ in range(warmup):
        for call in contestants.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            for _ in range(lead):
                before()
                call()
            before()
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) * 1e6)
    return times


def summarize(times: Mapping[str, Sequence[float]]) -> list[Sample]:
    """Medians and quartiles."""
    samples = []
    for name, found in times.items():
        low, median, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else list(found) * 3
        samples.append(Sample(name, median, low, high, len(found)))
    return samples


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3) -> list[Sample]:
    """Measure contestants in turn and summarize."""
    return summarize(measure(contestants, rounds, warmup))


def show(title: str, samples: Sequence[Sample], scale: float = 1.0, unit: str = "us",
         work: tuple[float, str] | None = None, **facts: object) -> None:
    """Print a table (times divided by `scale`, ratios to the first), then one JSON line a contestant, with `facts`.

    Args:
        work: what each does in that time, and the unit of doing so much a second, such as (1.5, "GB/s"), for a column
            of rates.
    """
    print(title)
    width = max(len(s.name) for s in samples)
    rates = [{} if work is None else {"rate": work[0] / (s.median * 1e-6), "rate_unit": work[1]} for s in samples]
    for s, rate in zip(samples, rates, strict=True):
        print(f"  {s.name:<{width}}  {s.median / scale:10.3f} {unit}  ({s.low / scale:.3f} - {s.high / scale:.3f})  "
              f"{s.median / samples[0].median:6.2f} x" + ("  {rate:10.4g} {rate_unit}".format(**rate) if rate else ""))
    for s, rate in zip(samples, rates, strict=True):
        print(json.dumps({"benchmark": title, **facts, **asdict(s), "scale": scale, "unit": unit, **rate}))
