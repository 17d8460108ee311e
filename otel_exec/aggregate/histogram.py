"""Durations folded: exact while they are few, a base-2 exponential histogram after (decision 004).

What comes in: integer nanoseconds. What goes out: percentiles in nanoseconds with a stated error. Mergeable in any order.

Up to `EXACT_LIMIT` samples percentiles are exact. Past it samples are counted in the buckets of an exponential histogram of scale 6
(base 2^(1/64), about 1.0109): a percentile is then within 0.55 % of the exact one, plus 1 ns for rounding. A histogram holds at
most some 4,000 buckets, whatever comes in.

Source: OpenTelemetry specification 1.49, metrics data model, "ExponentialHistogram"; bucket `i` holds `base^i < value <= base^(i+1)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

__all__ = ["EXACT_LIMIT", "RELATIVE_ERROR", "SCALE", "Histogram", "percentile_of"]

EXACT_LIMIT = 512
SCALE = 6
_PER_OCTAVE = 1 << SCALE
_BASE = 2.0 ** (1 / _PER_OCTAVE)
# A bucket stands for the harmonic mean of its edges, which is equally far from both, relatively.
RELATIVE_ERROR = (_BASE - 1) / (_BASE + 1)
# The index of a duration of 0 ns: below that of 1 ns, which is -1.
_ZERO = -2


class Histogram(msgspec.Struct):
    """`exact` holds the samples while there are at most `EXACT_LIMIT`, in any order; past it `buckets` counts them by index (see `index_of`)."""

    count: int = 0
    exact: list[int] | None = msgspec.field(default_factory=list)
    buckets: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, value_ns: int) -> None:
        """Count one duration, nanoseconds, not negative."""
        self.count += 1
        exact = self.exact
        if exact is None:
            index = index_of(value_ns)
            self.buckets[index] = self.buckets.get(index, 0) + 1
            return
        exact.append(value_ns)
        if len(exact) > EXACT_LIMIT:
            self._give_up_exact()

    def extend(self, values_ns: list[int]) -> None:
        """Count many."""
        exact = self.exact
        if exact is not None and len(exact) + len(values_ns) <= EXACT_LIMIT:
            exact.extend(values_ns)
            self.count += len(values_ns)
            return
        for value_ns in values_ns:
            self.add(value_ns)

    def merge(self, other: Histogram) -> None:
        """Add another histogram's samples to this one's."""
        self.count += other.count
        mine, theirs = self.exact, other.exact
        if mine is not None and theirs is not None:
            mine.extend(theirs)
            if len(mine) > EXACT_LIMIT:
                self._give_up_exact()
            return
        self._give_up_exact()
        buckets = self.buckets
        if theirs is not None:
            for value_ns in theirs:
                index = index_of(value_ns)
                buckets[index] = buckets.get(index, 0) + 1
        for index, count in other.buckets.items():
            buckets[index] = buckets.get(index, 0) + count

    def percentile(self, percentile: float) -> int | None:
        """Return the percentile (0 to 100) in nanoseconds, by linear interpolation between closest ranks; `None` when empty."""
        return self.percentiles((percentile,))[0]

    def percentiles(self, percentiles: tuple[float, ...]) -> list[int | None]:
        """Return several percentiles, in the order asked for, for the cost of one sort."""
        if not self.count:
            return [None] * len(percentiles)
        if self.exact is not None:
            samples = sorted(self.exact)
            return [percentile_of(samples, percentile) for percentile in percentiles]
        ordered = sorted(self.buckets.items())

        def at_rank(rank: int) -> int:
            below = 0
            for index, count in ordered:
                below += count
                if rank < below:
                    return value_of(index)
            return value_of(ordered[-1][0])

        return [_interpolate(percentile, self.count, at_rank) for percentile in percentiles]

    def _give_up_exact(self) -> None:
        exact, self.exact = self.exact, None
        buckets = self.buckets
        for value_ns in exact or ():
            index = index_of(value_ns)
            buckets[index] = buckets.get(index, 0) + 1


def index_of(value_ns: int) -> int:
    """Return the bucket of a duration; 0 and anything below it have a bucket of their own."""
    if value_ns <= 0:
        return _ZERO
    return math.ceil(math.log2(value_ns) * _PER_OCTAVE) - 1


def value_of(index: int) -> int:
    """Return the duration that a bucket stands for, nanoseconds."""
    if index <= _ZERO:
        return 0
    low, high = math.exp2(index / _PER_OCTAVE), math.exp2((index + 1) / _PER_OCTAVE)
    # Edges on whole numbers are hit to within rounding; a bucket with one whole number in it stands for that.
    last = math.floor(high + 1e-6)
    if last - math.floor(low + 1e-6) <= 1:
        return last
    return round(2 * low * high / (low + high))


def percentile_of(ordered: Sequence[int], percentile: float) -> int:
    """Return a percentile (0 to 100) of sorted values, at least one of them, by linear interpolation between closest ranks."""
    return _interpolate(percentile, len(ordered), ordered.__getitem__)


def _interpolate(percentile: float, count: int, at_rank: Callable[[int], int]) -> int:
    rank = min(max(percentile, 0.0), 100.0) / 100 * (count - 1)
    lower = int(rank)
    value = at_rank(lower)
    fraction = rank - lower
    if fraction <= 0 or lower + 1 >= count:
        return value
    return value + round((at_rank(lower + 1) - value) * fraction)
