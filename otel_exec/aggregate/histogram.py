"""Durations folded: exact while they are few, a base-2 exponential histogram after (decision 004).

What comes in: integer nanoseconds. What goes out: percentiles in nanoseconds with a stated error. Mergeable in any order.
"""

from __future__ import annotations

import msgspec

__all__ = ["EXACT_LIMIT", "Histogram"]

EXACT_LIMIT = 512


class Histogram(msgspec.Struct):
    """`exact` holds the samples while there are at most `EXACT_LIMIT`; past it `buckets` counts them by index (see `add`)."""

    count: int = 0
    exact: list[int] | None = msgspec.field(default_factory=list)
    buckets: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, value_ns: int) -> None:
        """Count one duration, nanoseconds, not negative."""
        raise NotImplementedError

    def merge(self, other: Histogram) -> None:
        """Add another histogram's samples to this one's."""
        raise NotImplementedError

    def percentile(self, percentile: float) -> int | None:
        """Return the percentile (0 to 100) in nanoseconds, `None` when empty."""
        raise NotImplementedError
