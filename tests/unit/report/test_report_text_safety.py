from __future__ import annotations

import pytest

from otel_exec.printable import printable
from otel_exec.report.text_safety import display_width, encodable, first_line, one_line, pad, shorten, wrap


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain", "plain"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\r\tx", "two\\nlines\\r\\tx"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\x9b31m", "\\x9b31m"),
        ("lone \ud800", "lone \\ud800"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("no\xa0break", "no break"),
        ("thin\u2009space", "thin space"),
        ("\U000e0041", "\\U000e0041"),
        ("日本語 שלום é", "日本語 שלום é"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text, safe):
    """Control characters, escapes, newlines, direction overrides and surrogates become visible; letters of any script stay."""
    assert printable(text) == safe
    assert printable(text).isprintable()


def test_what_an_encoding_cannot_hold_is_escaped():
    """An ASCII stream gets backslash escapes, and so does one of an unknown encoding."""
    assert encodable("né日", "ascii") == "n\\xe9\\u65e5"
    assert encodable("né日", "latin-1") == "né\\u65e5"
    assert encodable("né", "no-such-encoding") == "n\\xe9"


def test_width_is_in_columns():
    """Wide characters take two columns, combining marks none."""
    assert display_width("日本") == 4
    assert display_width("e\u0301") == 1
    assert pad("日本", 6) == "日本  "
    assert pad("日本", 6, right=True) == "  日本"


@pytest.mark.parametrize("text", ["train_bpe/vocab=32000", "日本語の長い名前がここに入ります", "e\u0301" * 30, "x"])
@pytest.mark.parametrize("ellipsis", ["...", "…"])
def test_a_shortened_text_fits_and_keeps_both_ends(text, ellipsis):
    """Whatever the width, a shortened text fits it; with room enough it begins and ends as the whole does."""
    for width in range(1, 40):
        short = shorten(text, width, ellipsis)
        assert display_width(short) <= width
        if display_width(text) <= width:
            assert short == text
    short = shorten(text, 12, ellipsis)
    assert short[0] == text[0]
    assert short[-1] == text[-1]


def test_wrapping_breaks_at_spaces_and_never_within_a_word():
    """A word that is wider than the line has a line of its own."""
    assert wrap("a bb ccc", 4) == ["a bb", "ccc"]
    assert wrap("see http://localhost:16686 now", 10) == ["see", "http://localhost:16686", "now"]
    assert wrap("", 4) == [""]


def test_the_first_line_that_says_something():
    """Blank lines before it are passed over; a text of blanks has none."""
    assert first_line("\n  \n first \nsecond") == "first"
    assert first_line("\n \n") == ""


def test_a_text_in_one_line_has_all_its_lines():
    """They are joined, since a message may say what matters in its second line; what is very long is cut, and that is seen."""
    assert one_line("  ConnectionError: the\n\n  server is gone \r\n") == "ConnectionError: the server is gone"
    assert one_line("") == ""
    assert len(one_line("x y" * 10_000)) == 300
    assert one_line("x" * 301).endswith("xx...")
    assert one_line("x" * 300) == "x" * 300
