"""`traceparent` as text."""

from __future__ import annotations

import pytest

from otel_exec.traceparent import format_traceparent, parse_traceparent


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (f"00-{'a' * 32}-{'b' * 16}-00", ("a" * 32, "b" * 16, False)),
        (f" 00-{'a' * 32}-{'b' * 16}-03 ", ("a" * 32, "b" * 16, True)),
        (f"01-{'a' * 32}-{'b' * 16}-01-more", ("a" * 32, "b" * 16, True)),
        (f"00-{'a' * 32}-{'b' * 16}-01-more", None),
        (f"ff-{'a' * 32}-{'b' * 16}-01", None),
        (f"00-{'0' * 32}-{'b' * 16}-01", None),
        (f"00-{'a' * 32}-{'0' * 16}-01", None),
        (f"00-{'A' * 32}-{'b' * 16}-01", None),
        (f"00-{'a' * 31}-{'b' * 16}-01", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(text, parsed):
    """Valid ones give ids and the sampled bit, others nothing."""
    assert parse_traceparent(text) == parsed


@pytest.mark.parametrize("sampled", [True, False])
def test_a_traceparent_goes_through_text_and_back(sampled):
    """What is written is what is read."""
    text = format_traceparent("ab" * 16, "cd" * 8, sampled=sampled)
    assert text == f"00-{'ab' * 16}-{'cd' * 8}-0{int(sampled)}"
    assert parse_traceparent(text) == ("ab" * 16, "cd" * 8, sampled)
