from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from otel_exec.report.durations import duration_text, shares_of_whole

_UNITS = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_PART = re.compile(r"(\d+(?:\.\d)?)(h|ms|us|ns|m|s)")

durations = st.one_of(
    st.integers(0, 10**15),
    st.builds(
        lambda unit, near: max(0, unit + near), st.sampled_from([10**3, 10**6, 10**7, 10**9, 10**10, 6 * 10**10, 36 * 10**11]), st.integers(-(10**6), 10**6)
    ),
)


def value_of(text: str) -> float:
    parts = _PART.findall(text)
    assert "".join(number + unit for number, unit in parts) == text
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


@given(durations)
def test_a_text_is_close_to_its_duration_and_no_part_of_it_overflows(duration_ns):
    """What is read back differs by at most 5 percent or half a microsecond, and no text has 60 seconds, 60 minutes or 1000 of the small units."""
    text = duration_text(duration_ns)
    assert abs(value_of(text) - duration_ns) <= max(0.051 * duration_ns, 500)
    for number, unit in _PART.findall(text):
        if unit != "h":
            assert float(number) < {"m": 60, "s": 60}.get(unit, 1000)


@given(durations, durations)
def test_a_longer_duration_never_reads_shorter(one_ns, other_ns):
    """The texts are in the order of the durations."""
    low, high = sorted((one_ns, other_ns))
    assert value_of(duration_text(low)) <= value_of(duration_text(high))


@given(st.lists(st.integers(0, 10**15), max_size=12))
def test_shares_add_up_to_exactly_1000_tenths(parts):
    """Rounded shares add up to 100 percent, and each is within a tenth of its own."""
    tenths = shares_of_whole(parts)
    assert sum(tenths) == (1000 if sum(parts) else 0)
    for part, tenth in zip(parts, tenths, strict=True):
        assert not sum(parts) or abs(tenth - part * 1000 / sum(parts)) <= 1
