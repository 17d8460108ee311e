from __future__ import annotations

import io
import os
import pty

import pytest

from otel_exec.report.look import ASCII, UNICODE
from otel_exec.report.terminal import look_of


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


def test_a_pipe_gets_plain_text_of_80_columns():
    """No colour, no sign that ASCII can't show."""
    look = look_of(Stream(terminal=False), {})
    assert (look.width, look.signs, look.colour) == (80, ASCII, False)


@pytest.mark.parametrize(
    ("terminal", "environ", "colour", "expected"),
    [
        (True, {}, "auto", True),
        (True, {"NO_COLOR": "1"}, "auto", False),
        (True, {"NO_COLOR": ""}, "auto", True),
        (True, {"TERM": "dumb"}, "auto", False),
        (True, {}, "never", False),
        (False, {"NO_COLOR": "1"}, "always", True),
        (False, {}, "auto", False),
    ],
)
def test_colour_is_for_terminals_unless_told(terminal, environ, colour, expected):
    """`--color` is stronger than NO_COLOR, which is stronger than the terminal; an empty NO_COLOR says nothing."""
    assert look_of(Stream(terminal=terminal), environ, colour=colour).colour is expected


@pytest.mark.parametrize(("encoding", "signs"), [("utf-8", UNICODE), ("ascii", ASCII), ("latin-1", ASCII), ("no-such", ASCII)])
def test_a_terminal_whose_encoding_lacks_a_sign_gets_ascii(encoding, signs):
    """The signs are all or nothing."""
    assert look_of(Stream(terminal=True, encoding=encoding), {}).signs is signs


def test_the_width_is_the_one_asked_for_then_columns_then_the_terminals():
    """`--width`, `COLUMNS`, the terminal, 80; nothing below 20; a `COLUMNS` that is no number says nothing."""
    stream = Stream(terminal=False)
    assert look_of(stream, {"COLUMNS": "100"}, width=120).width == 120
    assert look_of(stream, {"COLUMNS": "100"}).width == 100
    assert look_of(stream, {"COLUMNS": "wide"}).width == 80
    assert look_of(stream, {}, width=3).width == 20


def test_a_real_terminal_tells_its_width():
    """Asked on a pseudo-terminal of 133 columns, the width is 133."""
    import fcntl
    import struct
    import termios

    parent, child = pty.openpty()
    try:
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 133, 0, 0))
        with os.fdopen(child, "w", encoding="utf-8") as stream:
            assert look_of(stream, {}).width == 133
    finally:
        os.close(parent)
