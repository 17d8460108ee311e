"""How a report is to look: width, signs, colour. Decided by whoever owns the stream; nothing in this room asks a terminal.

What comes in: arguments. What goes out: a `Look`, and with it text that the stream's encoding can hold.
"""

from __future__ import annotations

import msgspec

from otel_exec.printable import printable
from otel_exec.report.text_safety import encodable

__all__ = ["ASCII", "UNICODE", "Look", "Signs"]


class Signs(msgspec.Struct, frozen=True):
    """The signs of a drawing. `eighths` are bars of one to seven eighths of a column, "" where there are none; `rest` is the unfilled part of a progress bar.

    `box`: the corners and crossings of a table from the top left, line by line, then its horizontal and its vertical line.
    """

    bar: str
    eighths: str
    rest: str
    line: str
    double_line: str
    ellipsis: str
    arrow: str
    good: str
    bad: str
    box: str


UNICODE = Signs(bar="█", eighths="▏▎▍▌▋▊▉", rest="░", line="─", double_line="═", ellipsis="…", arrow="→", good="✓", bad="✗", box="┌┬┐├┼┤└┴┘─│")
ASCII = Signs(bar="#", eighths="", rest=".", line="-", double_line="=", ellipsis="...", arrow="->", good="+", bad="x", box="+++++++++-|")

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class Look(msgspec.Struct, frozen=True):
    """Width in columns, the stream's encoding, the signs that it can show, and whether colour is wanted."""

    width: int = 80
    encoding: str = "utf-8"
    signs: Signs = ASCII
    colour: bool = False

    def text(self, text: str) -> str:
        """Return someone else's text as it can be shown: one line, nothing a terminal obeys, nothing the encoding can't hold."""
        return encodable(printable(text), self.encoding)

    def styled(self, text: str, style: str) -> str:
        """Return the text in a style (a word such as `bold` or `red`, "" for none), if colour is wanted."""
        if not self.colour or not style or not text:
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"
