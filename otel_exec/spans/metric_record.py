"""Metrics as plain values: what is added up in a run, and what `metric_codec` writes.

What comes in: durations in integer nanoseconds, counts. What goes out: points that only grow until they are emptied. Knows no clock, file or span object.

Units: nanoseconds inside; seconds are the codec's.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from otel_exec.semconv import Metric
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["BOUNDS_NS", "BOUNDS_S", "CountPoint", "DurationPoint", "Exemplar", "MetricRecord"]

# A step may take a millisecond or three days. Ratios of 2 to 3, on times that people speak of (decision 019).
BOUNDS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 43200.0, 86400.0, 259200.0),
)
BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in BOUNDS_S)


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One duration that was measured, and the span that it was measured by. `at_ns`: its end, since the Unix epoch."""

    value_ns: int
    at_ns: int
    span_id: str


@dataclass(slots=True)
class CountPoint:
    """One series of a counter, or of something that goes up and down."""

    attributes: dict[str, AttributeValue]
    value: int = 0


@dataclass(slots=True)
class DurationPoint:
    """One series of a histogram. `buckets[i]` counts what is above `BOUNDS_NS[i - 1]` and at most `BOUNDS_NS[i]`; `exemplars` has the longest of each bucket."""

    attributes: dict[str, AttributeValue]
    count: int = 0
    sum_ns: int = 0
    min_ns: int | None = None
    max_ns: int | None = None
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_NS) + 1))
    exemplars: dict[int, Exemplar] = field(default_factory=dict)

    def add(self, value_ns: int, at_ns: int = 0, span_id: str | None = None) -> None:
        """Count one duration; with a span's id it may become the exemplar of its bucket."""
        index = bisect_left(BOUNDS_NS, value_ns)
        self.buckets[index] += 1
        self.sums(1, value_ns, value_ns, value_ns)
        if span_id:
            self.example(index, value_ns, at_ns, span_id)

    def sums(self, count: int, sum_ns: int, min_ns: int, max_ns: int) -> None:
        """Add what is known of several durations besides their buckets."""
        self.count += count
        self.sum_ns += sum_ns
        if self.min_ns is None or min_ns < self.min_ns:
            self.min_ns = min_ns
        if self.max_ns is None or max_ns > self.max_ns:
            self.max_ns = max_ns

    def example(self, index: int, value_ns: int, at_ns: int, span_id: str) -> None:
        """Remember which span a duration of a bucket was measured by, if it is the bucket's longest."""
        known = self.exemplars.get(index)
        if known is None or value_ns > known.value_ns:
            self.exemplars[index] = Exemplar(value_ns, at_ns, span_id)


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """One metric at one instant. `start_ns`: since when its points count, `at_ns`: until when; `delta`: whether they were emptied at `start_ns`."""

    metric: Metric
    points: tuple[CountPoint, ...] | tuple[DurationPoint, ...]
    start_ns: int
    at_ns: int
    delta: bool = False
