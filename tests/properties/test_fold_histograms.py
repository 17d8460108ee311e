"""Percentiles of folded durations against the samples themselves, and merges in any order."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_exec.aggregate.histogram import EXACT_LIMIT, RELATIVE_ERROR, Histogram, index_of, value_of

durations = st.one_of(st.integers(0, 2000), st.integers(0, 2**50), st.integers(0, 50).map(lambda exponent: 2**exponent))
QUANTILES = (0.0, 25.0, 50.0, 95.0, 99.0, 100.0)


def of(samples):
    histogram = Histogram()
    for sample in samples:
        histogram.add(sample)
    return histogram


def exact(samples, percentile):
    ordered = sorted(samples)
    rank = percentile / 100 * (len(ordered) - 1)
    low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    return low + (high - low) * (rank - math.floor(rank))


@given(st.lists(durations, min_size=1, max_size=EXACT_LIMIT))
@settings(max_examples=100, deadline=None)
def test_percentiles_of_few_samples_are_exact(samples):
    """Up to the limit a percentile is the linear interpolation between closest ranks, to the nanosecond."""
    for percentile, found in zip(QUANTILES, of(samples).percentiles(QUANTILES), strict=True):
        expected = exact(samples, percentile)
        assert abs(found - expected) <= max(0.5, expected * 1e-12) + 1e-6


@given(st.lists(durations, min_size=1, max_size=40), st.integers(20, 60))
@settings(max_examples=100, deadline=None)
def test_percentiles_of_many_samples_are_within_the_stated_error(samples, times):
    """Past the limit a percentile is within 0.55 % and 1 ns (rounding) of the exact one."""
    assert RELATIVE_ERROR < 0.0055
    many = (samples * (EXACT_LIMIT // len(samples) + times))[: EXACT_LIMIT * 3]
    histogram = of(many)
    assert histogram.exact is None
    for percentile in QUANTILES:
        expected = exact(many, percentile)
        assert abs(histogram.percentile(percentile) - expected) <= 1 + expected * 0.0055


@given(st.lists(st.lists(durations, max_size=30), min_size=2, max_size=4), st.integers(1, 25), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_merging_in_any_order_gives_what_one_histogram_would_have_counted(parts, times, random):
    """Parts merged in any order, exact or not, have the percentiles of all samples in one histogram."""
    groups = [part * times for part in parts]
    whole = of([sample for group in groups for sample in group])
    merged = Histogram()
    for group in random.sample(groups, len(groups)):
        merged.merge(of(group))
    assert merged.count == whole.count
    assert (merged.exact is None) == (whole.exact is None)
    assert merged.buckets == whole.buckets
    assert merged.percentiles(QUANTILES) == whole.percentiles(QUANTILES)


@given(st.integers(1, 2**63 - 1))
def test_a_duration_lies_close_to_what_its_bucket_stands_for(value):
    """The stand-in of a duration's bucket is within the stated relative error and 1 ns (rounding)."""
    assert abs(value_of(index_of(value)) - value) <= 1 + value * 0.0055
