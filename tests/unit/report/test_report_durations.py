from __future__ import annotations

import pytest

from otel_exec.report.durations import bytes_text, count_text, duration_text, exact_text, share_text, shares_of_whole

S = 1_000_000_000


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (None, "-"),
        (-1, "-"),
        (0, "0ms"),
        (350, "350ns"),
        (35_000, "35us"),
        (350_400, "350us"),
        (1_240_000, "1.2ms"),
        (512_000_000, "512ms"),
        (999_400_000, "999ms"),
        (999_600_000, "1.0s"),
        (1_200_000_000, "1.2s"),
        (9_940_000_000, "9.9s"),
        (9_960_000_000, "10s"),
        (45 * S, "45s"),
        (59_600_000_000, "1m"),
        (240 * S, "4m"),
        (270 * S, "4m30s"),
        (3_599 * S, "59m59s"),
        (3_599_600_000_000, "1h"),
        (7_200 * S, "2h"),
        (8_100 * S, "2h15m"),
        (100 * 3_600 * S, "100h"),
    ],
)
def test_a_duration_reads_as_promised(duration_ns, text):
    """Durations read `-`, `512ms`, `1.2s`, `45s`, `4m30s`, `4m`, `2h15m`, `2h`, rounded into the next unit where that is reached."""
    assert duration_text(duration_ns) == text


@pytest.mark.parametrize(("share", "text"), [(None, "-"), (0, "0%"), (0.0001, "<0.1%"), (0.0005, "0.1%"), (0.926, "92.6%"), (1.0, "100.0%")])
def test_a_share_that_is_not_nothing_never_reads_as_nothing(share, text):
    """A share is a percentage with one decimal; what is too small for it reads `<0.1%`."""
    assert share_text(share) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0B"), (1023, "1023B"), (1536, "1.5K"), (412 * 2**20, "412M"), (1010 * 2**20, "1.0G"), (int(1.25 * 2**30), "1.3G"), (5 * 2**50, "5P")],
)
def test_a_size_reads_in_powers_of_1024(size, text):
    """Sizes have one decimal below ten and none above."""
    assert bytes_text(size) == text


def test_a_count_has_its_thousands_apart():
    """10000 reads 10,000 and an unknown count `-`."""
    assert (count_text(10_000), count_text(None)) == ("10,000", "-")


def test_shares_of_a_whole_add_up_to_it():
    """Three thirds are 33.4, 33.3 and 33.3 percent; of nothing there are no shares."""
    assert shares_of_whole([1, 1, 1]) == [334, 333, 333]
    assert shares_of_whole([0, 0]) == [0, 0]
    assert shares_of_whole([]) == []


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (None, "-"),
        (0, "0ms"),
        (350_400, "350us"),
        (1_240_000, "1.240ms"),
        (26_312_000, "26.31ms"),
        (263_120_000, "263.1ms"),
        (999_960_000, "1.000s"),
        (9_999_600_000, "10.00s"),
        (11_238 * S // 1000, "11.24s"),
        (59_996_000_000, "1m0s"),
        (326 * S, "5m26s"),
        (3_725 * S, "1h2m5s"),
    ],
)
def test_an_exact_duration_has_four_digits(duration_ns, text):
    """Enough to work a percentage out again by hand; rounded into the next unit where that is reached."""
    assert exact_text(duration_ns) == text
